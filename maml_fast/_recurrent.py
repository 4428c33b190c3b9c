"""LSTMs of a single task and of many tasks, in operations that autograd differentiates twice.

cuDNN's LSTM has no double backward and ``torch.nn.LSTM`` has no batching rule, so MAML can use neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maml_fast.nn import traced_as_one

__all__ = ["lstm", "lstm_layer_of_tasks", "lstm_of_tasks"]


@traced_as_one
def lstm(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Apply one LSTM layer, starting from zero states: x [N, L, I] to hidden states [N, L, H].

    The parameters are those of ``torch.nn.LSTM``: weight_ih [4H, I], weight_hh [4H, H], biases [4H], with the gates in
    the order input, forget, cell, output.
    """
    return lstm_of_tasks(x[None], weight_ih[None], weight_hh[None], bias_ih[None], bias_hh[None]).squeeze(0)


def lstm_of_tasks(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Apply :func:`lstm` to each task: x [T, N, L, I], weights [T, 4H, ...], biases [T, 4H] to [T, N, L, H]."""
    start = x.new_zeros(*x.shape[:2], weight_hh.shape[-1])  # [T, N, H]
    states, _, _ = lstm_layer_of_tasks(x.transpose(1, 2), weight_ih, weight_hh, bias_ih + bias_hh, start, start)
    return states.transpose(1, 2)


def lstm_layer_of_tasks(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    cell: Tensor,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden states [T, L, N, H] for x [T, L, N, I], and the final hidden and cell state [T, N, H].

    ``hidden`` and ``cell`` [T, N, H] are the initial states; ``reverse`` starts at the end of the sequence. The bias is
    [T, 4H].
    """
    flat, into_gates = x.flatten(1, 2), weight_ih.mT  # [T, L * N, I], [T, I, 4H]
    product = torch.bmm(flat, into_gates) if bias is None else torch.baddbmm(bias[:, None], flat, into_gates)
    from_input = product.unflatten(1, x.shape[1:3]).unbind(1)  # L of [T, N, 4H]
    recurrent = weight_hh.mT  # [T, H, 4H]
    states = []
    for each in reversed(from_input) if reverse else from_input:
        gates = torch.baddbmm(each, hidden, recurrent)
        i, f, g, o = gates.chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states[::-1] if reverse else states, dim=1), hidden, cell

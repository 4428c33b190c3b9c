"""The LSTM of one task's network and of many tasks' networks, in operations that autograd differentiates twice.

cuDNN's has no double backward and ``torch.nn.LSTM`` no batching rule, so that neither serves MAML.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maml_fast.nn import traced_as_one

__all__ = ["lstm", "lstm_of_tasks"]


@traced_as_one
def lstm(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """One LSTM layer from a state of zeros: x [N, L, I] to hidden states [N, L, H].

    The parameters are those of ``torch.nn.LSTM``: weight_ih [4H, I], weight_hh [4H, H], biases [4H]; gates in the order
    input, forget, cell, output.
    """
    return lstm_of_tasks(x[None], weight_ih[None], weight_hh[None], bias_ih[None], bias_hh[None]).squeeze(0)


def lstm_of_tasks(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """:func:`lstm` of every task: x [T, N, L, I], weights [T, 4H, ...], biases [T, 4H] to [T, N, L, H]."""
    bias = (bias_ih + bias_hh)[:, None]  # [T, 1, 4H]
    from_input = torch.baddbmm(bias, x.flatten(1, 2), weight_ih.mT).unflatten(1, x.shape[1:3])  # [T, N, L, 4H]
    recurrent = weight_hh.mT  # [T, H, 4H]
    hidden = cell = x.new_zeros(*x.shape[:2], weight_hh.shape[-1])  # [T, N, H]
    states = []
    for each in from_input.unbind(2):
        gates = torch.baddbmm(each, hidden, recurrent)  # [T, N, 4H]
        admit, keep, candidate, expose = gates.chunk(4, dim=-1)
        cell = keep.sigmoid() * cell + admit.sigmoid() * candidate.tanh()
        hidden = expose.sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states, dim=2)

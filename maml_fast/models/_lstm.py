"""A recurrent network with one LSTM layer, for sequences."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from maml_fast._arguments import int_from, takes
from maml_fast._recurrent import lstm
from maml_fast.models._inputs import checked_sequences

__all__ = ["LSTM"]


class LSTM(nn.Module):
    """One LSTM layer (Hochreiter & Schmidhuber 1997; Gers et al. 2000), then a linear output at every step.

    The layer's parameters are those of ``torch.nn.LSTM(inputs, hidden, batch_first=True)``, with names that lack the
    suffix ``_l0``: ``weight_ih`` [4*hidden, inputs], ``weight_hh`` [4*hidden, hidden], ``bias_ih`` and ``bias_hh``
    [4*hidden], with gates in the order input, forget, cell, output. Their initial values are the same too, draw for
    draw after the same ``torch.manual_seed``: all uniform within ±1/sqrt(hidden). ``output`` is a ``torch.nn.Linear``
    with its usual initial values. Every sequence starts from a zero state.

    Unlike ``torch.nn.LSTM``, it has second derivatives on every device and runs for all tasks at once.

    Args:
        inputs: number of input features per step.
        hidden: size of the hidden state.
        outputs: number of outputs per step.

    Raises:
        TypeError, ValueError: if a size is not a whole number of at least 1; ``forward`` raises them for sequences that
            are not [N, L, inputs].
    """

    @takes(inputs=int_from(1), hidden=int_from(1), outputs=int_from(1))
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.hidden = hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden))
        self.output = nn.utils.skip_init(nn.Linear, hidden, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values from torch's generator."""
        bound = 1 / math.sqrt(self.hidden)
        for parameter in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh):
            nn.init.uniform_(parameter, -bound, bound)
        self.output.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences x [N, L, inputs] to outputs [N, L, outputs]."""
        x = checked_sequences(x, self.inputs)
        return self.output(lstm(x, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh))

    def extra_repr(self) -> str:
        """Return the sizes that the printed ``output`` layer does not show."""
        return f"inputs={self.inputs}, hidden={self.hidden}"

"""A recurrent network of one layer, for sequences."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from maml_fast._arguments import takes, whole
from maml_fast._recurrent import lstm
from maml_fast.models._inputs import checked_sequences

__all__ = ["LSTM"]


class LSTM(nn.Module):
    """One LSTM layer (Hochreiter & Schmidhuber 1997; Gers et al. 2000), then a linear output at every step.

    The layer's parameters are those of ``torch.nn.LSTM(inputs, hidden, batch_first=True)`` without the ``_l0`` of their
    names: ``weight_ih`` [4*hidden, inputs], ``weight_hh`` [4*hidden, hidden], ``bias_ih`` and ``bias_hh`` [4*hidden],
    gates in the order input, forget, cell, output. So are the initial values, draw for draw from one
    ``torch.manual_seed``: all uniform within 1/sqrt(hidden). ``output`` is a ``torch.nn.Linear``, with its initial
    values. Every sequence starts from a state of zeros.

    Unlike ``torch.nn.LSTM`` it has a second derivative on every device, and runs for all tasks at once.

    Args:
        inputs: features of a step.
        hidden: size of the state.
        outputs: outputs of a step.

    Raises:
        TypeError, ValueError: for a size that is no whole number from 1 on; from ``forward``, for
            sequences that are not [N, L, inputs].
    """

    @takes(inputs=whole(1), hidden=whole(1), outputs=whole(1))
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
        """Draw the initial values anew from torch's generator."""
        bound = 1 / math.sqrt(self.hidden)
        for parameter in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh):
            nn.init.uniform_(parameter, -bound, bound)
        self.output.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences x [N, L, inputs] to outputs [N, L, outputs]."""
        x = checked_sequences(x, self.inputs)
        return self.output(lstm(x, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh))

    def extra_repr(self) -> str:
        """The sizes that the linear layer printed below does not say."""
        return f"inputs={self.inputs}, hidden={self.hidden}"

"""An LSTM layer that all coordinates share, each with its own state.

Coordinates are the last dimension, [H, N], so that each gate is contiguous in memory and elementwise operations run
over whole rows. Only plain operations are used, which autograd differentiates any number of times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CoordinateLSTM", "affine", "lstm_parameters", "uniform"]


def uniform(*shape: int, bound: float) -> nn.Parameter:
    """Return a parameter drawn uniformly within ±bound from torch's generator."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def lstm_parameters(inputs: int, hidden: int) -> nn.ParameterDict:
    """Return weight_ih [4H, I], weight_hh [4H, H], bias [4H], uniform in ±1/√H; gates input, forget, output, cell."""
    shapes: Mapping[str, tuple[int, ...]] = {
        "weight_ih": (4 * hidden, inputs),
        "weight_hh": (4 * hidden, hidden),
        "bias": (4 * hidden,),
    }
    return nn.ParameterDict({name: uniform(*shape, bound=hidden**-0.5) for name, shape in shapes.items()})


def affine(bias: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """Return ``weight @ x + bias`` [O, N] for bias [O], weight [O, I] and x [I, N]."""
    return torch.addmm(bias[:, None], weight, x)


class CoordinateLSTM:
    """The layer during one adaptation, from a zero state; ``rule`` holds its parameters under ``name``."""

    def __init__(self, rule: Mapping[str, Any], name: str) -> None:
        self._weight_ih, self._weight_hh = rule[f"{name}.weight_ih"], rule[f"{name}.weight_hh"]
        self._bias = rule[f"{name}.bias"]
        self._state: tuple[Tensor, Tensor] | None = None

    def step(self, x: Tensor) -> Tensor:
        """Return the next hidden states [H, N] for inputs x [I, N]."""
        size = self._weight_hh.shape[1]
        hidden, cell = self._state or (x.new_zeros(size, x.shape[1]),) * 2
        gates = torch.addmm(affine(self._bias, self._weight_ih, x), self._weight_hh, hidden)  # [4H, N]
        i, f, o = gates[: 3 * size].sigmoid().chunk(3)
        cell = f * cell + i * gates[3 * size :].tanh()
        hidden = o * cell.tanh()
        self._state = hidden, cell
        return hidden

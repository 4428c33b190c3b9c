"""How learn2learn's networks are initialized, by the same random numbers."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from maml_fast._arguments import nn_module, takes

__all__ = ["fc_init_", "maml_init_"]

M = TypeVar("M", bound=nn.Module)


@takes(module=nn_module)
def fc_init_(module: M) -> M:
    """Draw the weight from a normal distribution of deviation 0.01, cut off at two deviations; set the bias to zero.

    The numbers are drawn by NumPy's global generator.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if weight is not None:
        weight.data.copy_(0.01 * _truncated_normal(weight.shape))
    if bias is not None:
        nn.init.zeros_(bias.data)
    return module


@takes(module=nn_module)
def maml_init_(module: M) -> M:
    """Draw the weight from Xavier's uniform distribution, and set the bias to zero (Finn et al. 2017)."""
    nn.init.xavier_uniform_(module.weight.data)  # type: ignore[arg-type]
    nn.init.zeros_(module.bias.data)  # type: ignore[arg-type]
    return module


def _truncated_normal(shape: torch.Size) -> Tensor:
    """Return float64 values in [-2, 2]: those of SciPy's ``truncnorm.rvs(-2, 2, size=shape)``."""
    uniform = torch.from_numpy(np.random.uniform(size=tuple(shape)))  # noqa: NPY002
    tail = 0.5 * math.erfc(math.sqrt(2.0))  # the normal distribution's probability below -2
    return torch.special.ndtri(tail + uniform * (1 - 2 * tail))

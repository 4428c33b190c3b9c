"""Meta-SGD: a learned step size for every single weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from maml_fast._arguments import number, takes
from maml_fast.maml import MAML

__all__ = ["MetaSGD"]


class MetaSGD(MAML):
    """MAML with θ' = θ - α ∘ ∇L(θ), where α, one number per weight, is meta-learned with θ (Li et al. 2017, eq. 3).

    All of α starts at ``inner_lr``, which must not be negative; training may make it negative, as in the paper. Other
    arguments are those of :class:`maml_fast.MAML`, except ``learn_inner_lr``.
    """

    @takes(inner_lr=number(least=0))
    def __init__(
        self, model: nn.Module, *, inner_lr: float = 0.1, inner_steps: int = 1, order: int = 2, **options: Any
    ) -> None:
        rates = partial(torch.full_like, fill_value=inner_lr, requires_grad=False)
        super().__init__(model, inner_lr=rates, inner_steps=inner_steps, order=order, learn_inner_lr=True, **options)

"""BOIL (body only in the inner loop): everything except the head adapts."""

from __future__ import annotations

from typing import Any

from torch import nn

from maml_fast.maml import MAML

__all__ = ["BOIL"]


class BOIL(MAML):
    """MAML whose inner loop adapts all but the last layer, which is meta-learned and shared (Oh et al. 2021).

    Arguments are those of :class:`maml_fast.MAML`, except ``adapted``.
    """

    def __init__(
        self, model: nn.Module, *, inner_lr: Any = 0.4, inner_steps: int = 1, order: int = 2, **options: Any
    ) -> None:
        super().__init__(model, inner_lr=inner_lr, inner_steps=inner_steps, order=order, adapted="body", **options)

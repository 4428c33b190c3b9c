"""ANIL (almost no inner loop): only the head adapts."""

from __future__ import annotations

from typing import Any

from torch import nn

from maml_fast.maml import MAML

__all__ = ["ANIL"]


class ANIL(MAML):
    """MAML whose inner loop adapts only the last layer; features are meta-learned and shared (Raghu et al. 2020).

    Arguments are those of :class:`maml_fast.MAML`, except ``adapted``.
    """

    def __init__(
        self, model: nn.Module, *, inner_lr: Any = 0.4, inner_steps: int = 1, order: int = 2, **options: Any
    ) -> None:
        super().__init__(model, inner_lr=inner_lr, inner_steps=inner_steps, order=order, adapted="head", **options)

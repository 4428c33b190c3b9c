"""First-order MAML."""

from __future__ import annotations

from typing import Any

from torch import nn

from maml_fast.maml import MAML

__all__ = ["FOMAML"]


class FOMAML(MAML):
    """MAML that treats the inner gradients as constants (Finn et al. 2017, section 5.2).

    The meta-gradient is the gradient of the query loss at the adapted weights. Arguments are those of
    :class:`maml_fast.MAML`, except ``order``.
    """

    def __init__(self, model: nn.Module, *, inner_lr: Any = 0.4, inner_steps: int = 1, **options: Any) -> None:
        super().__init__(model, inner_lr=inner_lr, inner_steps=inner_steps, order=1, **options)

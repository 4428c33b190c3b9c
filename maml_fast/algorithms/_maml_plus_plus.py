"""MAML++: MAML made stable."""

from __future__ import annotations

from typing import Any

from torch import nn

from maml_fast.maml import MAML
from maml_fast.program import InnerBatchNorm

__all__ = ["MAMLPlusPlus"]


class MAMLPlusPlus(MAML):
    """MAML with what Antoniou, Edwards & Storkey 2019 (section 4) add to it, each a choice of MAML's own.

    - inner rates for every parameter and every step, meta-learned from ``inner_lr`` on: ``learn_inner_lr="per_step"``;
    - batch norm with a scale and a shift for every step, which do not adapt: ``batch_norm="per_step"``, as in the
      authors' code, or ``"per_step_running"`` with every step's running statistics, as in the paper;
    - the multi-step loss, annealed over ``multi_step_iterations``: by default so many as 10 of the authors' epochs;
    - derivative-order annealing over ``first_order_iterations``: by default none, as in the authors' configurations.

    The paper's cosine schedule of the outer rate is the outer optimizer's: ``meta_schedule`` of a training run. Other
    arguments are those of :class:`maml_fast.MAML`, but ``learn_inner_lr``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        order: int = 2,
        batch_norm: InnerBatchNorm = "per_step",
        first_order_iterations: int = 0,
        multi_step_iterations: int = 5000,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            inner_lr=lambda parameter: inner_lr,
            inner_steps=inner_steps,
            order=order,
            learn_inner_lr="per_step",
            batch_norm=batch_norm,
            first_order_iterations=first_order_iterations,
            multi_step_iterations=multi_step_iterations,
            **options,
        )

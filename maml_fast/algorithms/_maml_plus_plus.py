"""MAML++: additions to MAML that stabilize its training."""

from __future__ import annotations

from typing import Any

from torch import nn

from maml_fast.maml import MAML
from maml_fast.program import InnerBatchNorm

__all__ = ["MAMLPlusPlus"]


class MAMLPlusPlus(MAML):
    """MAML with the additions of Antoniou, Edwards & Storkey 2019 (section 4), each also available in MAML itself.

    - A learning rate for every parameter and inner step, meta-learned from ``inner_lr``:
      ``learn_inner_lr="per_step"``.
    - Batch norm with a separate scale and shift for every step, which do not adapt: ``batch_norm="per_step"``, as in
      the authors' code, or ``"per_step_running"`` with separate running statistics too, as in the paper.
    - The multi-step loss, annealed over ``multi_step_iterations``: by default as many as 10 epochs of the authors.
    - Derivative-order annealing over ``first_order_iterations``: none by default, as in the authors' configurations.

    The paper's cosine schedule of the outer learning rate belongs to the outer optimizer: see ``meta_schedule`` of a
    training run. Other arguments are those of :class:`maml_fast.MAML`, except ``learn_inner_lr``.
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

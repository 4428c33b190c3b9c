"""The loss of every task, for all tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from maml_fast.maml.classification import check_labels, cross_entropy_of_tasks
from maml_fast.maml.task_map import TaskMap

__all__ = ["LossFunction", "TaskLoss"]

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class TaskLoss:
    """``losses(loss_fn, logits, targets, what) -> [T]`` of logits [T, N, ...] and targets [T, N, ...].

    ``loss_fn`` is a function of one task; cross-entropy has a form of its own for all of them. ``what`` names the
    targets in errors.
    """

    def __init__(self) -> None:
        self._all_tasks = TaskMap("loss_fn")

    def __call__(self, loss_fn: LossFunction, logits: Tensor, targets: Tensor, what: str) -> Tensor:
        """Return the losses."""
        if loss_fn is F.cross_entropy:
            check_labels(logits, targets, what)
            return cross_entropy_of_tasks(logits, targets)
        return self._all_tasks(_scalar(loss_fn), (logits, targets))


def _scalar(loss_fn: LossFunction) -> LossFunction:
    def loss_of_one_task(logits: Tensor, targets: Tensor) -> Tensor:
        loss = loss_fn(logits, targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn must return a scalar tensor for the logits of one task, got {got}")
        return loss

    return loss_of_one_task

"""The loss of one task, and of every task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast.maml.classification import check_labels, cross_entropy_of_tasks

__all__ = ["LossFunction", "loss_of_task", "losses_of_tasks"]

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def losses_of_tasks(loss_fn: LossFunction, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
    """Losses [T] of logits [T, N, ...] and targets [T, N, ...]; ``what`` names the targets that are to be checked."""
    if loss_fn is F.cross_entropy:
        if what is not None:
            check_labels(logits, targets, what)
        return cross_entropy_of_tasks(logits, targets)
    return torch.stack([loss_of_task(loss_fn, *task) for task in zip(logits, targets, strict=True)])


def loss_of_task(loss_fn: LossFunction, logits: Tensor, targets: Tensor, what: str | None = None) -> Tensor:
    """The loss of logits [N, ...] and targets [N, ...]; ``what`` names the targets that are to be checked."""
    if loss_fn is F.cross_entropy and what is not None:
        check_labels(logits[None], targets[None], what)
    loss = loss_fn(logits, targets)
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn must return a scalar tensor for the logits of one task, got {got}")
    return loss

"""Losses of tasks, and checks of classification labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast.inner_loop._metric import IGNORED, Accuracy, are_classes, count_of_tasks
from maml_fast.inner_loop._values import TaskResults

__all__ = [
    "LossFunction",
    "check_labels",
    "check_range",
    "cross_entropy_of_tasks",
    "loss_of_task",
    "losses_of_tasks",
    "score_classes",
]

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def losses_of_tasks(loss_fn: LossFunction, logits: Tensor, targets: Tensor, what: str | None) -> Tensor:
    """Return the losses [T] for logits [T, N, ...] and targets [T, N, ...].

    Labels of cross-entropy are checked if ``what`` is their name, and not if it is ``None``.
    """
    if loss_fn is F.cross_entropy:
        if what is not None:
            check_labels(logits, targets, what)
        return cross_entropy_of_tasks(logits, targets)
    return torch.stack([loss_of_task(loss_fn, *task) for task in zip(logits, targets, strict=True)])


def loss_of_task(loss_fn: LossFunction, logits: Tensor, targets: Tensor, what: str | None = None) -> Tensor:
    """Return one task's loss for logits [N, ...] and targets [N, ...]; ``what`` names the targets in errors."""
    try:
        loss = loss_fn(logits, targets)
    except (IndexError, RuntimeError, ValueError):
        if loss_fn is F.cross_entropy and what is not None:
            check_labels(logits[None], targets[None], what)
        raise
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn must return a scalar tensor for the logits of one task, got {got}")
    return loss


def cross_entropy_of_tasks(logits: Tensor, targets: Tensor) -> Tensor:
    """Return ``F.cross_entropy`` of every task, [T], for logits [T, N, C, ...] and targets as in ``check_labels``."""
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="none")  # [T * N, ...]
    losses = losses.view(len(logits), -1)
    if targets.is_floating_point():
        return losses.mean(dim=1)
    return losses.sum(dim=1) / (targets != IGNORED).flatten(1).sum(dim=1)


def score_classes(logits: Tensor, labels: Tensor, what: str) -> TaskResults:
    """Return every task's cross-entropy and correct predictions for logits [T, N, n_way] and labels [T, N]."""
    check_labels(logits, labels, what)
    counts = count_of_tasks(Accuracy(IGNORED, required=False), logits, labels)
    losses = cross_entropy_of_tasks(logits, labels)[None]
    return TaskResults(losses) if counts is None else TaskResults(losses, counts.correct[None], counts.predictions)


def check_labels(logits: Tensor, targets: Tensor, what: str) -> None:
    """Raise unless ``targets`` are valid for cross-entropy with these logits.

    The range of labels is checked on the CPU only: on an accelerator the check would synchronize.
    """
    if targets.is_floating_point() and targets.shape == logits.shape:
        return  # class probabilities
    if not are_classes(logits, targets):
        raise ValueError(
            f"cross-entropy on logits {list(logits.shape)} takes int64 labels {list(logits.shape[:2])}, "
            f"got {what} of {targets.dtype} {list(targets.shape)}; pass another loss_fn for other targets"
        )
    check_range(targets, logits.shape[2], what)


def check_range(targets: Tensor, n_classes: int, what: str) -> None:
    """Raise unless labels are in 0 to ``n_classes - 1`` or :data:`IGNORED`; labels on a GPU are not checked."""
    if targets.device.type != "cpu" or targets.numel() == 0:
        return
    targets = targets[targets != IGNORED] if (targets == IGNORED).any() else targets
    if targets.numel() == 0:
        return
    least, most = (int(label) for label in torch.aminmax(targets))
    if least < 0 or most >= n_classes:
        wrong = least if least < 0 else most
        raise ValueError(f"{what} holds the label {wrong}, but the model has {n_classes} outputs: 0..{n_classes - 1}")

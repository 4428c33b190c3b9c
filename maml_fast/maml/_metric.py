"""Which predictions are right, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast._arguments import shown

__all__ = [
    "IGNORED",
    "Accuracy",
    "Counts",
    "Judge",
    "Metric",
    "are_classes",
    "check_metric",
    "count_of_task",
    "count_of_tasks",
    "judge_of",
]

IGNORED = -100  # the label that F.cross_entropy leaves out

# Which predictions of one task are right: metric(logits [N, ...], targets [N, ...]) -> bool [...].
Judge: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Metric: TypeAlias = str | Judge | None  # "auto", "accuracy"; None: nothing is judged


class Counts(NamedTuple):
    """int64, [T] of tasks or [] of one: right predictions, and predictions."""

    right: Tensor
    predictions: Tensor


def check_metric(name: str, metric: Any) -> Metric:
    """The kind of ``metric``."""
    known = isinstance(metric, str) and metric in ("auto", "accuracy")
    if metric is None or known or (callable(metric) and not isinstance(metric, type)):
        kept: Metric = metric
        return kept
    raise ValueError(
        f"{name} must be 'auto', 'accuracy', None, or a function of logits and targets that tells which predictions "
        f"are right; got {shown(metric)}"
    )


class Accuracy:
    """Predicted classes that are the labels: the largest logit along dimension 1 of a task's.

    Attributes:
        ignored: the label of what does not count.
        must: whether targets that are no classes are an error.
    """

    def __init__(self, ignored: int, must: bool) -> None:
        self.ignored, self.must = ignored, must

    def __call__(self, logits: Tensor, targets: Tensor, classes: int = 1) -> Counts | None:
        """Of one task, or of tasks where ``classes`` is dimension 2."""
        if not are_classes(logits, targets, classes):
            if not self.must:
                return None
            raise ValueError(
                f"metric='accuracy' takes logits [N, classes, ...] and whole labels [N, ...], got {list(logits.shape)} "
                f"and {targets.dtype} {list(targets.shape)}; give a function that tells which predictions are right"
            )
        counts = targets != self.ignored
        right = (logits.detach().argmax(classes) == targets) & counts
        kept = targets.shape[: classes - 1]  # [T] or []
        return Counts(*(each.reshape(*kept, -1).sum(dim=-1) for each in (right, counts)))


def judge_of(metric: Metric, loss_fn: Callable[..., Any]) -> Accuracy | Judge | None:
    """What judges predictions under a loss; ``"auto"`` counts classes under cross-entropy, and nothing else."""
    if callable(metric) or metric is None:
        return metric
    inner = loss_fn
    ignored = IGNORED
    while isinstance(inner, partial):
        ignored = inner.keywords.get("ignore_index", ignored)
        inner = inner.func
    if isinstance(inner, nn.CrossEntropyLoss):
        ignored = inner.ignore_index
    elif inner is not F.cross_entropy and metric == "auto":
        return None
    return Accuracy(ignored, must=metric == "accuracy")


def count_of_task(judge: Accuracy | Judge | None, logits: Tensor, targets: Tensor) -> Counts | None:
    """Of one task's logits [N, ...] and targets [N, ...]."""
    if judge is None or isinstance(judge, Accuracy):
        return None if judge is None else judge(logits, targets)
    right = judge(logits.detach(), targets)
    if not isinstance(right, Tensor) or right.dtype != torch.bool:
        got = f"{right.dtype} {list(right.shape)}" if isinstance(right, Tensor) else type(right).__name__
        raise TypeError(f"metric must tell which predictions are right, in a tensor of torch.bool; it returned {got}")
    return Counts(right.sum(), torch.full((), right.numel(), device=right.device))


def count_of_tasks(judge: Accuracy | Judge | None, logits: Tensor, targets: Tensor) -> Counts | None:
    """Of every task's logits [T, N, ...] and targets [T, N, ...]."""
    if judge is None or isinstance(judge, Accuracy):
        return None if judge is None else judge(logits, targets, classes=2)
    counts = [count_of_task(judge, *task) for task in zip(logits, targets, strict=True)]
    return Counts(*(torch.stack(list(each)) for each in zip(*filter(None, counts), strict=True)))


def are_classes(logits: Tensor, targets: Tensor, classes: int = 2) -> bool:
    """Whether targets [T, N, ...] are classes of logits [T, N, C, ...], which ``classes`` is the dimension of."""
    integral = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    shape = logits.shape
    return integral and len(shape) > classes and targets.shape == shape[:classes] + shape[classes + 1 :]

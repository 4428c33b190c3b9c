"""Metrics: counts of predictions and of correct predictions."""

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
    "Metric",
    "MetricFunction",
    "are_classes",
    "check_metric",
    "count_of_task",
    "count_of_tasks",
    "resolve_metric",
]

IGNORED = -100  # the label that F.cross_entropy ignores

# Tells which predictions of one task are correct: metric(logits [N, ...], targets [N, ...]) -> bool [...].
MetricFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Metric: TypeAlias = str | MetricFunction | None  # "auto", "accuracy"; None: no metric


class Counts(NamedTuple):
    """Numbers of correct predictions and of all predictions, int64: [T] for tasks or [] for one task."""

    correct: Tensor
    predictions: Tensor


def check_metric(name: str, metric: Any) -> Metric:
    """Kind of MAML's argument ``metric``."""
    known = isinstance(metric, str) and metric in ("auto", "accuracy")
    if metric is None or known or (callable(metric) and not isinstance(metric, type)):
        kept: Metric = metric
        return kept
    raise ValueError(
        f"{name} must be 'auto', 'accuracy', None, or a function of logits and targets that tells which predictions "
        f"are right; got {shown(metric)}"
    )


class Accuracy:
    """Counts predictions whose largest logit, along the class dimension, is that of the label.

    Attributes:
        ignored: predictions with this label do not count.
        required: whether targets that are not classes are an error.
    """

    def __init__(self, ignored: int, required: bool) -> None:
        self.ignored, self.required = ignored, required

    def __call__(self, logits: Tensor, targets: Tensor, class_dim: int = 1) -> Counts | None:
        """Return the counts of one task (``class_dim=1``) or all tasks (2); ``None`` if targets are not classes."""
        if not are_classes(logits, targets, class_dim):
            if not self.required:
                return None
            raise ValueError(
                f"metric='accuracy' takes logits [N, classes, ...] and whole labels [N, ...], got {list(logits.shape)} "
                f"and {targets.dtype} {list(targets.shape)}; give a function that tells which predictions are right"
            )
        counts = targets != self.ignored
        correct = (logits.detach().argmax(class_dim) == targets) & counts
        kept = targets.shape[: class_dim - 1]  # [T] or []
        return Counts(*(each.reshape(*kept, -1).sum(dim=-1) for each in (correct, counts)))


def resolve_metric(metric: Metric, loss_fn: Callable[..., Any]) -> Accuracy | MetricFunction | None:
    """Return the metric for a loss function: ``"auto"`` is accuracy for cross-entropy, ``None`` for other losses."""
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
    return Accuracy(ignored, required=metric == "accuracy")


def count_of_task(metric: Accuracy | MetricFunction | None, logits: Tensor, targets: Tensor) -> Counts | None:
    """Return the counts for one task's logits [N, ...] and targets [N, ...]; ``None`` if there is no metric."""
    if metric is None or isinstance(metric, Accuracy):
        return None if metric is None else metric(logits, targets)
    correct = metric(logits.detach(), targets)
    if not isinstance(correct, Tensor) or correct.dtype != torch.bool:
        got = f"{correct.dtype} {list(correct.shape)}" if isinstance(correct, Tensor) else type(correct).__name__
        raise TypeError(f"metric must tell which predictions are right, in a tensor of torch.bool; it returned {got}")
    return Counts(correct.sum(), torch.full((), correct.numel(), device=correct.device))


def count_of_tasks(metric: Accuracy | MetricFunction | None, logits: Tensor, targets: Tensor) -> Counts | None:
    """Return the counts for all tasks' logits [T, N, ...] and targets [T, N, ...]; ``None`` if there is no metric."""
    if metric is None or isinstance(metric, Accuracy):
        return None if metric is None else metric(logits, targets, class_dim=2)
    counts = [count_of_task(metric, *task) for task in zip(logits, targets, strict=True)]
    return Counts(*(torch.stack(list(each)) for each in zip(*filter(None, counts), strict=True)))


def are_classes(logits: Tensor, targets: Tensor, class_dim: int = 2) -> bool:
    """Whether targets [T, N, ...] can be class labels of logits [T, N, C, ...], with C at dimension ``class_dim``."""
    integral = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    shape = logits.shape
    return integral and len(shape) > class_dim and targets.shape == shape[:class_dim] + shape[class_dim + 1 :]

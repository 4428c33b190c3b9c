"""Cross-entropy of all tasks with its first and second derivatives, each in a few kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from maml_fast.inner_loop._metric import IGNORED

__all__ = ["ClassLabels", "class_losses", "has_class_losses"]


class ClassLabels(NamedTuple):
    """Labels [T, N] of N predictions of C classes, and what follows from them alone.

    Attributes:
        labels: the labels, [T * N].
        shares: each prediction's share in the mean of its task, [T, N, 1]; 0 for ignored labels.
        minus_one_hot: minus the share at the label, [T, N, C]; 0 elsewhere.
    """

    labels: Tensor
    shares: Tensor
    minus_one_hot: Tensor

    @classmethod
    def of(cls, labels: Tensor, logits: Tensor) -> ClassLabels:
        """Prepare labels for logits [T, N, C] like these."""
        counted = labels != IGNORED
        shares = (counted.to(_dtype(logits)) / counted.sum(dim=1, keepdim=True))[..., None]
        where = labels.clamp(min=0)[..., None]  # any class for an ignored label, whose share is 0
        minus_one_hot = torch.zeros(logits.shape, dtype=shares.dtype, device=shares.device).scatter_(2, where, -shares)
        return cls(labels.flatten(), shares, minus_one_hot)


def has_class_losses(logits: Tensor, targets: Tensor) -> bool:
    """Return whether :func:`class_losses` can compute cross-entropy for these; it has no rules for ``torch.func``."""
    are_labels = logits.dim() == 3 and targets.dtype is torch.int64 and targets.shape == logits.shape[:2]
    return are_labels and not torch._C._are_functorch_transforms_active()


def class_losses(logits: Tensor, labels: ClassLabels) -> Tensor:
    """Return ``F.cross_entropy`` of every task, [T], for logits [T, N, C]; differentiable any number of times."""
    losses: Tensor = _Loss.apply(logits.to(_dtype(logits)), labels)
    return losses


def _dtype(logits: Tensor) -> torch.dtype:
    return torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: ClassLabels) -> Tensor:
        logs = logits.log_softmax(dim=2)
        losses = F.nll_loss(logs.flatten(0, 1), labels.labels, ignore_index=IGNORED, reduction="none")
        ctx.save_for_backward(logits, logs)
        ctx.labels = labels
        return torch.bmm(losses.view(len(logits), 1, -1), labels.shares).view(-1)

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor, None]:
        logits, logs = ctx.saved_tensors
        return _Gradient.apply(grad_losses, logits, logs.detach().exp(), ctx.labels), None


class _Gradient(torch.autograd.Function):
    """The gradient at the logits, ``grad_losses * (shares * softmax(logits) - one_hot)``."""

    @staticmethod
    def forward(ctx: Any, grad_losses: Tensor, logits: Tensor, softmax: Tensor, labels: ClassLabels) -> Tensor:
        ctx.save_for_backward(grad_losses, logits, softmax)
        ctx.labels = labels
        return torch.addcmul(labels.minus_one_hot, softmax, labels.shares) * grad_losses[:, None, None]

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        grad_losses, logits, softmax = ctx.saved_tensors
        labels = ctx.labels
        if torch.is_grad_enabled():  # a third derivative is wanted
            softmax = logits.softmax(dim=2)
            through_softmax = softmax * (tangent - (softmax * tangent).sum(dim=2, keepdim=True))
        else:
            through_softmax = torch._softmax_backward_data(tangent, softmax, 2, softmax.dtype)
        at_logits = through_softmax * (labels.shares * grad_losses[:, None, None])
        at_losses = None
        if ctx.needs_input_grad[0]:
            at_losses = (tangent * torch.addcmul(labels.minus_one_hot, softmax, labels.shares)).sum(dim=(1, 2))
        return at_losses, at_logits, None, None

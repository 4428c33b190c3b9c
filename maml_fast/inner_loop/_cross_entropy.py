"""Cross-entropy of all tasks on a GPU, with its first and second derivatives, each in one kernel or two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maml_fast import native
from maml_fast.inner_loop._metric import IGNORED

__all__ = ["class_losses", "has_class_losses"]

MOST_CLASSES = 64  # one thread of the kernels takes all classes of a prediction


def has_class_losses(logits: Tensor, targets: Tensor) -> bool:
    """Return whether :func:`class_losses` can compute cross-entropy for these; it has no rules for ``torch.func``."""
    if not _has_kernels(logits) or torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        return False
    are_labels = logits.dim() == 3 and targets.dtype is torch.int64 and targets.shape == logits.shape[:2]
    return are_labels and logits.numel() > 0 and logits.shape[2] <= MOST_CLASSES


def class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``F.cross_entropy`` of every task, [T], for logits [T, N, C] and labels [T, N].

    It can be differentiated any number of times. A label that is no class makes its task's loss NaN.
    """
    is_half = logits.dtype in (torch.float16, torch.bfloat16)
    losses: Tensor = _Losses.apply(logits.float() if is_half else logits, labels.contiguous())
    return losses


def _has_kernels(logits: Tensor) -> bool:
    return logits.device.type == "cuda" and native.has_cuda_kernels()


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        losses, gradients = torch.ops.maml_fast.class_losses(logits.contiguous(), labels)
        ctx.save_for_backward(logits, labels, gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:
        return _Gradients.apply(weights, *ctx.saved_tensors), None


class _Gradients(torch.autograd.Function):
    """The gradient at the logits of a sum of losses with ``weights`` [T]; ``gradients`` are those of the losses."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, logits: Tensor, labels: Tensor, gradients: Tensor) -> Tensor:
        ctx.save_for_backward(weights, logits, labels, gradients)
        return gradients * weights[:, None, None]

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        weights, logits, labels, gradients = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative is wanted
            gradients, at_logits = _differentiable(weights, logits, labels, tangent)
        else:
            operands = (tensor.contiguous() for tensor in (logits, labels, weights, tangent))
            at_logits = torch.ops.maml_fast.second_of_class_losses(*operands)
        at_weights = (tangent * gradients).sum(dim=(1, 2)) if ctx.needs_input_grad[0] else None
        return at_weights, at_logits, None, None


def _differentiable(weights: Tensor, logits: Tensor, labels: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses' gradients and the second derivative along ``tangent``, in operations of PyTorch."""
    counts = labels != IGNORED
    shares = (counts.to(logits.dtype) / counts.sum(dim=1, keepdim=True))[..., None]
    softmax = logits.softmax(dim=2)
    one_hot = torch.zeros_like(softmax).scatter(2, labels.clamp(min=0)[..., None], 1)
    through_softmax = softmax * (tangent - (softmax * tangent).sum(dim=2, keepdim=True))
    return shares * (softmax - one_hot), shares * weights[:, None, None] * through_softmax

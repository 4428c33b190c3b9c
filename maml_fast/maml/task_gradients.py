"""The gradients of an inner step, for all tasks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_multithreading_enabled

__all__ = ["FastWeights", "Gradients", "task_gradients"]

FastWeights: TypeAlias = dict[str, Tensor]  # parameter name -> [T, ...]
Gradients: TypeAlias = dict[str, Tensor]  # the same, of those that a loss depends on


def task_gradients(
    task_losses: Callable[[FastWeights], Tensor], fast: FastWeights, second_order: bool
) -> tuple[Tensor, Gradients]:
    """Every task's loss [T], and its gradient by name; what no loss depends on is left out.

    ``task_losses`` gives the losses [T] of the tasks at given weights. Tasks are independent, so the gradient of the
    losses' sum holds every task's own gradient. At first order both are constants to the meta-gradient.

    Raises:
        RuntimeError: no loss depends on any weight.
    """
    with torch.enable_grad():  # also where the caller has switched gradients off
        at = fast if second_order else {name: weight.detach().requires_grad_() for name, weight in fast.items()}
        losses = task_losses(at)
        gradients: tuple[Tensor | None, ...] = (None,) * len(at)
        if losses.requires_grad:
            # On a GPU another thread would number the nodes that are made here. Their numbers decide in which order
            # the meta-gradient is summed, and so on its last bits.
            with set_multithreading_enabled(False):
                gradients = torch.autograd.grad(
                    losses.sum(), tuple(at.values()), create_graph=second_order, allow_unused=True
                )
    known = {name: gradient for name, gradient in zip(fast, gradients, strict=True) if gradient is not None}
    if not known:
        raise RuntimeError(f"the support loss does not depend on any adapted parameter: {', '.join(fast)}")
    return losses if second_order else losses.detach(), known

"""One step of the inner loop, for all tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from maml_fast.maml.inner_rates import Rate

__all__ = ["FastWeights", "outside_inference_mode", "sgd_step", "usable_by_autograd"]

FastWeights = dict[str, Tensor]  # parameter name -> [T, ...]


def sgd_step(
    task_losses: Callable[[FastWeights], Tensor],
    fast: FastWeights,
    rate_of: Callable[[str], Rate],
    second_order: bool,
) -> FastWeights:
    """``w - rate * dL/dw`` for every task's weights (Finn et al. 2017, eq. 1).

    ``task_losses`` gives the losses [T] of the tasks at given weights. Tasks are independent, so the gradient of the
    losses' sum holds every task's own gradient. At first order the gradient is a constant to the meta-gradient.
    """
    with torch.enable_grad():  # also where the caller has switched gradients off
        at = fast if second_order else {name: weight.detach().requires_grad_() for name, weight in fast.items()}
        losses = task_losses(at)
        gradients: tuple[Tensor | None, ...] = (None,) * len(at)
        if losses.requires_grad:
            gradients = torch.autograd.grad(
                losses.sum(), tuple(at.values()), create_graph=second_order, allow_unused=True
            )
    if all(gradient is None for gradient in gradients):
        raise RuntimeError(f"the support loss does not depend on any adapted parameter: {', '.join(fast)}")
    return {
        name: weight if gradient is None else _descend(weight, gradient, rate_of(name))
        for (name, weight), gradient in zip(fast.items(), gradients, strict=True)
    }


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Inside ``torch.inference_mode`` no gradient can be taken at all: run as under ``torch.no_grad`` there."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def usable_by_autograd(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which autograd refuses to save."""
    return tensor.clone() if tensor.is_inference() else tensor


def _descend(weight: Tensor, gradient: Tensor, rate: Rate) -> Tensor:
    if isinstance(rate, Tensor):
        return weight - rate * gradient
    return weight.sub(gradient, alpha=rate)

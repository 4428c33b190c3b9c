"""One step of the inner loop, for all tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from maml_fast.maml.inner_rates import Rate

__all__ = ["FastWeights", "sgd_step", "task_gradients"]

FastWeights: TypeAlias = dict[str, Tensor]  # parameter name -> [T, ...]


def task_gradients(
    task_losses: Callable[[FastWeights], Tensor], fast: FastWeights, second_order: bool
) -> dict[str, Tensor]:
    """Every task's gradient of its own loss, by name; what no loss depends on is left out.

    ``task_losses`` gives the losses [T] of the tasks at given weights. Tasks are independent, so the gradient of the
    losses' sum holds every task's own gradient. At first order the gradient is a constant to the meta-gradient.

    Raises:
        RuntimeError: no loss depends on any weight.
    """
    with torch.enable_grad():  # also where the caller has switched gradients off
        at = fast if second_order else {name: weight.detach().requires_grad_() for name, weight in fast.items()}
        losses = task_losses(at)
        gradients: tuple[Tensor | None, ...] = (None,) * len(at)
        if losses.requires_grad:
            gradients = torch.autograd.grad(
                losses.sum(), tuple(at.values()), create_graph=second_order, allow_unused=True
            )
    known = {name: gradient for name, gradient in zip(fast, gradients, strict=True) if gradient is not None}
    if not known:
        raise RuntimeError(f"the support loss does not depend on any adapted parameter: {', '.join(fast)}")
    return known


def sgd_step(
    task_losses: Callable[[FastWeights], Tensor],
    fast: FastWeights,
    rates: Mapping[str, Rate],
    second_order: bool,
) -> FastWeights:
    """``w - rate * dL/dw`` for every task's weights (Finn et al. 2017, eq. 1); see :func:`task_gradients`."""
    return _descended(fast, task_gradients(task_losses, fast, second_order), rates)


def _descended(fast: FastWeights, gradients: Mapping[str, Tensor], rates: Mapping[str, Rate]) -> FastWeights:
    """The weights after the step; those without a gradient stay."""
    after = dict(fast)
    names_of: dict[float, list[str]] = {}  # that one number is the rate of: they go together
    for name, gradient in gradients.items():
        rate = rates[name]
        if isinstance(rate, Tensor):
            after[name] = fast[name] - rate * gradient
        else:
            names_of.setdefault(rate, []).append(name)
    for number, names in names_of.items():
        weights, steps = [fast[name] for name in names], [gradients[name] for name in names]
        after.update(zip(names, torch._foreach_add(weights, steps, alpha=-number), strict=True))
    return after

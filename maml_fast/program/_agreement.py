"""Judges whether a program's outcome is the model's own, up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from maml_fast.program._recording import Outcome

__all__ = ["difference", "nudged"]

TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}  # relative
COARSE = 3e-2  # the tolerance of other dtypes; what is farther apart is never put down to rounding
ROUNDING = 8  # in units of the dtype's epsilon: what a pass through many layers accumulates


def difference(
    expected: Outcome, found: Outcome, parameters: Mapping[str, Tensor], rerun: Callable[[dict[str, Tensor]], Outcome]
) -> str | None:
    """Return what differs between the model's own outcome and another one, or ``None``.

    In deep networks rounding may flip many ReLUs and maxima. The gradient may therefore differ by as much as the
    model's own gradient does when its parameters change by rounding errors. ``rerun(parameters)`` returns the model's
    own outcome.
    """
    for what, a, b in zip(expected._fields, expected, found, strict=True):
        if _are_close(a, b, TOLERANCES.get(a.dtype, COARSE)):
            continue
        if what != "gradient" or not _are_close(a, b, COARSE):
            return what
        other = rerun({name: nudged(each, 0, ROUNDING * _epsilon(each)) for name, each in parameters.items()})
        if (a - b).norm() > 2 * (a - other.gradient).norm():
            return what
    return None


def nudged(leaf: Tensor, attempt: int, by: float) -> Tensor:
    """Scale each number by a factor in [1 - by, 1 + by], another one in each attempt."""
    if not leaf.requires_grad:
        return leaf
    steps = torch.arange(attempt, attempt + leaf.numel(), device=leaf.device).cos().view(leaf.shape)
    return (leaf.detach() * (1 + by * steps.to(leaf.dtype))).requires_grad_()


def _epsilon(leaf: Tensor) -> float:
    return torch.finfo(leaf.dtype).eps if leaf.is_floating_point() else 0.0


def _are_close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Compare by norm rather than element by element, because rounding may flip single maxima and ReLUs."""
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = (each.nan_to_num(0.0, 0.0, 0.0) for each in (a, b))
    return bool((a - b).norm() <= tolerance * a.norm() + torch.finfo(a.dtype).tiny)

"""Values that every inner step has of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

__all__ = ["MaybePerStep", "PerStep", "at_step", "map_tensors"]

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class PerStep:
    """One value for each of K steps, [K, ...]; what goes beyond them, as evaluation may, takes the last."""

    values: Tensor

    def at(self, step: int) -> Tensor:
        """The value [...] of a step, counted from 0."""
        return self.values[min(step, len(self.values) - 1)]

    def rows(self, steps: int) -> Tensor:
        """The values of so many steps, [steps, ...]."""
        return self.values if steps == len(self.values) else self.values[self._places(steps)]

    def of_rows(self, gradient: Tensor) -> Tensor:
        """The gradient of the values from one of :meth:`rows`."""
        if len(gradient) == len(self.values):
            return gradient
        places = self._places(len(gradient)).to(gradient.device)
        return torch.zeros_like(self.values, requires_grad=False).index_add(0, places, gradient)

    def _places(self, steps: int) -> Tensor:
        return torch.arange(steps).clamp(max=len(self.values) - 1)


MaybePerStep: TypeAlias = Value | PerStep  # the same at every step, or each step's own


def at_step(values: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What holds at a step."""
    return {name: value.at(step) if isinstance(value, PerStep) else value for name, value in values.items()}


def map_tensors(function: Callable[[Tensor], Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with other tensors in the place of these; what is no tensor stays."""

    def mapped(value: Any) -> Any:
        if isinstance(value, PerStep):
            return PerStep(function(value.values))
        return function(value) if isinstance(value, Tensor) else value

    return {name: mapped(value) for name, value in values.items()}

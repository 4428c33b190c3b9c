"""What goes into an inner loop and comes out of it: values of every step, weights of every task, results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

__all__ = ["FastWeights", "Gradients", "MAMLOutput", "MaybePerStep", "PerStep", "TaskResults", "at_step", "map_tensors"]

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
FastWeights: TypeAlias = dict[str, Tensor]  # parameter name -> [T, ...]
Gradients: TypeAlias = dict[str, Tensor]  # the same, of those that a loss depends on


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


class MAMLOutput(NamedTuple):
    """What one meta-batch gives.

    loss: mean query loss of the tasks after the last inner step, a differentiable scalar.
    query_accuracy: share of right query predictions of all tasks after the last step, by MAML's ``metric``; ``None``
        where nothing judges them.
    query_losses, query_accuracies: [S], after every recorded step, the last one last, or ``None`` unless asked for;
    they are records and carry no graph.
    """

    loss: Tensor
    query_accuracy: Tensor | None
    query_losses: Tensor | None = None
    query_accuracies: Tensor | None = None


class TaskResults(NamedTuple):
    """Query results of every task after the S recorded steps, of which the last inner step is the last.

    losses: [S, T]; the last row carries the graph.
    correct: [S, T] int64, right predictions; ``None`` where nothing judges them.
    predictions: [T] int64, how many there are; ignored labels do not count.
    """

    losses: Tensor
    correct: Tensor | None = None
    predictions: Tensor | None = None

    @property
    def accuracies(self) -> Tensor | None:
        """The share of right predictions of every task, [S, T] float64; NaN where there are none."""
        if self.correct is None or self.predictions is None:
            return None
        return self.correct.double() / self.predictions

    def detached(self) -> TaskResults:
        """The same without a graph."""
        return self._replace(losses=self.losses.detach())

"""Data types of inner loops: per-step values, fast weights, and results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

__all__ = [
    "FastWeights",
    "Gradients",
    "MAMLOutput",
    "MaybePerStep",
    "PerStep",
    "TaskResults",
    "map_tensors",
    "values_at_step",
]

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class PerStep:
    """One value for each of K steps, [K, ...]; steps beyond K, which evaluation may take, use the last value."""

    values: Tensor

    def at(self, step: int) -> Tensor:
        """Return the value [...] of a step, counted from 0."""
        return self.values[min(step, len(self.values) - 1)]

    def rows(self, steps: int) -> Tensor:
        """Return the values of the first ``steps`` steps, [steps, ...]."""
        return self.values if steps == len(self.values) else self.values[self._row_indices(steps)]

    def gradient_of_values(self, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to the values, given that with respect to :meth:`rows`."""
        if len(gradient) == len(self.values):
            return gradient
        indices = self._row_indices(len(gradient)).to(gradient.device)
        return torch.zeros_like(self.values, requires_grad=False).index_add(0, indices, gradient)

    def _row_indices(self, steps: int) -> Tensor:
        return torch.arange(steps).clamp(max=len(self.values) - 1)


MaybePerStep: TypeAlias = Value | PerStep  # the same at every step, or one value per step
FastWeights: TypeAlias = dict[str, Tensor]  # parameter name -> [T, ...]
Gradients: TypeAlias = dict[str, Tensor]  # the same, for the weights that a loss depends on


def values_at_step(values: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Return the values at a step."""
    return {name: value.at(step) if isinstance(value, PerStep) else value for name, value in values.items()}


def map_tensors(function: Callable[[Tensor], Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """Apply ``function`` to every tensor; leave other values unchanged."""

    def mapped(value: Any) -> Any:
        if isinstance(value, PerStep):
            return PerStep(function(value.values))
        return function(value) if isinstance(value, Tensor) else value

    return {name: mapped(value) for name, value in values.items()}


class MAMLOutput(NamedTuple):
    """Result of one meta-batch.

    Attributes:
        loss: mean query loss of the tasks after the last inner step; a differentiable scalar.
        query_accuracy: fraction of correct query predictions of all tasks after the last inner step, according to
            MAML's ``metric``; ``None`` if there is no metric.
        query_losses: mean query loss after every recorded step, [S], without a graph. The last entry is that of the
            last inner step. ``None`` unless requested with ``per_step``.
        query_accuracies: query accuracy after every recorded step, [S], likewise.
    """

    loss: Tensor
    query_accuracy: Tensor | None
    query_losses: Tensor | None = None
    query_accuracies: Tensor | None = None


class TaskResults(NamedTuple):
    """Query results of every task after S recorded steps; the last of these is the last inner step.

    Attributes:
        losses: mean query losses, [S, T]; the last row carries the graph.
        correct: numbers of correct predictions, [S, T] int64; ``None`` if there is no metric.
        predictions: numbers of predictions, [T] int64, without those for ignored labels; ``None`` if there is no
            metric.
    """

    losses: Tensor
    correct: Tensor | None = None
    predictions: Tensor | None = None

    @property
    def accuracies(self) -> Tensor | None:
        """Fraction of correct predictions of every task, [S, T] float64; NaN for a task without predictions.

        ``None`` if there is no metric.
        """
        if self.correct is None or self.predictions is None:
            return None
        return self.correct.double() / self.predictions

    def detached(self) -> TaskResults:
        """Return the results without a graph."""
        return self._replace(losses=self.losses.detach())

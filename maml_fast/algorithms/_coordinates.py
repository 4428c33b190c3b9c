"""Inner optimizers that apply one rule to every coordinate: to each single number in the weights of all tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from maml_fast.inner_loop._values import FastWeights, Gradients

__all__ = ["CoordinateOptimizer", "Coordinates", "preprocessed"]

P = 10.0  # numbers of at least e^-P are represented by their logarithm


class CoordinateOptimizer(ABC):
    """Base class of an :class:`maml_fast.inner_loop._optimizers.InnerOptimizer` with one rule for all coordinates.

    A coordinate keeps its index in [N] from step to step; N = T * P, with T tasks and P weights per task.
    """

    def __init__(self) -> None:
        self._coordinates: Coordinates | None = None

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        """Return every task's weights after the step.

        Raises:
            RuntimeError: if a weight has a gradient at one step and none at another.
        """
        coordinates = self._coordinates = self._coordinates or Coordinates(gradients)
        coordinates.check(gradients)
        weights = self.next_weights(
            coordinates.flatten(fast), coordinates.flatten(gradients), coordinates.expand(losses)
        )
        return {**fast, **coordinates.unflatten(weights)}

    @abstractmethod
    def next_weights(self, weights: Tensor, gradients: Tensor, losses: Tensor) -> Tensor:
        """Return the weights [N] after the step; ``losses`` [N] holds the loss of each coordinate's task."""


class Coordinates:
    """Convert between tensors [T, ...] by name, of the weights that have a gradient, and one row [T * P]."""

    def __init__(self, gradients: Gradients) -> None:
        self._shapes = {name: gradient.shape for name, gradient in gradients.items()}
        self._sizes = [gradient[0].numel() for gradient in gradients.values()]

    def check(self, gradients: Gradients) -> None:
        """Raise RuntimeError unless these are gradients of the same weights."""
        other = sorted(gradients.keys() ^ self._shapes.keys())
        if other:
            raise RuntimeError(
                f"the support loss depends on {', '.join(other)} at some inner steps but not at others; a learned "
                "optimizer needs gradients of the same weights at every step"
            )

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return tensors [T, ...] as a row [T * P]; names without a gradient are left out."""
        return torch.cat([tensors[name].flatten(1) for name in self._shapes], dim=1).flatten()

    def expand(self, values: Tensor) -> Tensor:
        """Repeat values [T], one per task, for each coordinate of the task: [T * P]."""
        return values[:, None].expand(-1, sum(self._sizes)).flatten()

    def unflatten(self, row: Tensor) -> FastWeights:
        """Return a row [T * P] as tensors [T, ...] by name."""
        parts = row.unflatten(0, (-1, sum(self._sizes))).split(self._sizes, dim=1)
        return {name: part.reshape(shape) for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)}


def preprocessed(numbers: Tensor) -> Tensor:
    """Split numbers [N] into magnitude and sign, [2, N] (Andrychowicz et al. 2016, appendix A).

    With p = 10, a number g becomes ``log|g| / p`` and ``sign(g)`` if ``|g| >= e^-p``, else -1 and ``e^p g``.
    Derivatives are finite everywhere: at most e^p.
    """
    size = numbers.abs().clamp(min=math.exp(-P)).log() / P
    sign = (math.exp(P) * numbers).clamp(-1, 1)
    return torch.stack([size, sign])

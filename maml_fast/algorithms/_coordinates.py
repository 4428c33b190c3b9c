"""Inner optimizers that see single numbers, the coordinates of all tasks' weights, and treat all by one rule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from maml_fast.maml._values import FastWeights, Gradients

__all__ = ["CoordinateOptimizer", "Coordinates", "preprocessed"]

P = 10.0  # numbers from e^-P on are given by their logarithm


class CoordinateOptimizer(ABC):
    """One adaptation of all tasks: a :class:`maml_fast.maml._inner_optimizers.InnerOptimizer` of one rule for all.

    Coordinates keep their places in [N] from step to step, N = T * P for P weights of a task.
    """

    def __init__(self) -> None:
        self._coordinates: Coordinates | None = None

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        """Every task's weights after the step.

        Raises:
            RuntimeError: a weight has a gradient at one step and none at another.
        """
        coordinates = self._coordinates = self._coordinates or Coordinates(gradients)
        coordinates.check(gradients)
        weights = self.moved(coordinates.row(fast), coordinates.row(gradients), coordinates.of_tasks(losses))
        return {**fast, **coordinates.tensors(weights)}

    @abstractmethod
    def moved(self, weights: Tensor, gradients: Tensor, losses: Tensor) -> Tensor:
        """The weights [N] after the next step, from weights, their gradients, and their task's loss, all [N]."""


class Coordinates:
    """Weights that have a gradient: [T, ...] by name, as a row [T * P] of all their numbers, and back."""

    def __init__(self, gradients: Gradients) -> None:
        self._shapes = {name: gradient.shape for name, gradient in gradients.items()}
        self._sizes = [gradient[0].numel() for gradient in gradients.values()]

    def check(self, gradients: Gradients) -> None:
        """Raise unless these are gradients of the same weights."""
        other = sorted(gradients.keys() ^ self._shapes.keys())
        if other:
            raise RuntimeError(
                f"the support loss depends on {', '.join(other)} at some inner steps but not at others; a learned "
                "optimizer remembers the same weights at all of them"
            )

    def row(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The numbers [T * P] of tensors [T, ...]; other names are left out."""
        return torch.cat([tensors[name].flatten(1) for name in self._shapes], dim=1).flatten()

    def of_tasks(self, values: Tensor) -> Tensor:
        """The tasks' values [T], for each of their numbers: [T * P]."""
        return values[:, None].expand(-1, sum(self._sizes)).flatten()

    def tensors(self, row: Tensor) -> FastWeights:
        """The tensors [T, ...] of a row [T * P]."""
        parts = row.unflatten(0, (-1, sum(self._sizes))).split(self._sizes, dim=1)
        return {name: part.reshape(shape) for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)}


def preprocessed(numbers: Tensor) -> Tensor:
    """Numbers [N] as what there is to their size and to their sign: [2, N].

    Those of g with ``|g| >= e^-p`` are ``log|g| / p`` and ``sign(g)``, those of a smaller one -1 and ``e^p g``, where
    p = 10 (Andrychowicz et al. 2016, appendix A). Derivatives are finite everywhere: at most e^p.
    """
    size = numbers.abs().clamp(min=math.exp(-P)).log() / P
    sign = (math.exp(P) * numbers).clamp(-1, 1)
    return torch.stack([size, sign])

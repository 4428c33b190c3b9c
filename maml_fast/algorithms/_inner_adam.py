"""Adam without momentum, for all tasks' weights at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from maml_fast.maml._heads import rows_in_turn
from maml_fast.maml._values import FastWeights

__all__ = ["AdamMemory", "InnerAdam"]

DECAY, EPS = 0.999, 1e-8  # of the squared gradients' mean; added to its root


class AdamMemory(nn.Module):
    """What Adam knows before a meta-batch: how many steps there were, and the mean squared gradient of each weight."""

    steps: Tensor

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._places = {name: f"square{i}" for i, name in enumerate(parameters)}  # buffers' names have no dots
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for name, place in self._places.items():
            self.register_buffer(place, torch.zeros_like(parameters[name], requires_grad=False))

    def square(self, name: str) -> Tensor:
        """The mean squared gradient of a parameter."""
        return getattr(self, self._places[name])

    def squares(self) -> list[Tensor]:
        """The mean squared gradients of all parameters."""
        return [self.square(name) for name in self._places]

    def resize(self, names: Collection[str], n_rows: int) -> None:
        """Know so many rows of these parameters: those that are known, in turn."""
        for name in self._places.keys() & set(names):
            self.register_buffer(self._places[name], rows_in_turn(self.square(name), n_rows))

    @torch.no_grad()
    def take(self, tasks: InnerAdam) -> None:
        """Remember the mean of what the tasks know."""
        self.steps.fill_(tasks.steps)
        for name, square in tasks.squares.items():
            self.square(name).copy_(square.mean(dim=0))


class InnerAdam:
    """Kingma & Ba 2015 with β1 = 0, from what was remembered, for each of the tasks by itself."""

    def __init__(self, memory: AdamMemory) -> None:
        self._memory = memory
        self.steps = int(memory.steps)
        self.squares: dict[str, Tensor] = {}  # [T, ...], or [...] before the first step

    @torch.no_grad()
    def step(self, fast: FastWeights, gradients: Mapping[str, Tensor], rate: float) -> FastWeights:
        """Every task's weights after a step; those without a gradient stay."""
        self.steps += 1
        rate = rate * (1 - DECAY**self.steps) ** 0.5
        after = dict(fast)
        for name, gradient in gradients.items():
            before = self.squares.get(name, self._memory.square(name))
            square = self.squares[name] = DECAY * before + (1 - DECAY) * gradient.square()
            after[name] = fast[name] - rate * gradient / (square.sqrt() + EPS)
        return after

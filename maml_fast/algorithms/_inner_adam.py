"""Adam without momentum, on the weights of all tasks at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from maml_fast.inner_loop._heads import cycle_rows
from maml_fast.inner_loop._values import FastWeights

__all__ = ["AdamMemory", "InnerAdam"]

DECAY, EPS = 0.999, 1e-8  # decay of the mean squared gradient; added to its square root


class AdamMemory(nn.Module):
    """Adam's state between meta-batches: the number of steps so far and the mean squared gradient of each weight."""

    steps: Tensor

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._buffer_names = {name: f"square{i}" for i, name in enumerate(parameters)}  # buffer names can't have dots
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for name, buffer_name in self._buffer_names.items():
            self.register_buffer(buffer_name, torch.zeros_like(parameters[name], requires_grad=False))

    def square(self, name: str) -> Tensor:
        """The mean squared gradient of a parameter."""
        return getattr(self, self._buffer_names[name])

    def squares(self) -> list[Tensor]:
        return [self.square(name) for name in self._buffer_names]

    def resize(self, names: Collection[str], n_rows: int) -> None:
        """Resize the state of these parameters to ``n_rows`` rows, repeating its rows in order if there are too few."""
        for name in self._buffer_names.keys() & set(names):
            self.register_buffer(self._buffer_names[name], cycle_rows(self.square(name), n_rows))

    @torch.no_grad()
    def update_from(self, tasks: InnerAdam) -> None:
        """Set the state to the mean of the tasks' states."""
        self.steps.fill_(tasks.steps)
        for name, square in tasks.squares.items():
            self.square(name).copy_(square.mean(dim=0))


class InnerAdam:
    """Adam (Kingma & Ba 2015) with β1 = 0, for each task separately, starting from the state in ``memory``."""

    def __init__(self, memory: AdamMemory) -> None:
        self._memory = memory
        self.steps = int(memory.steps)
        self.squares: dict[str, Tensor] = {}  # [T, ...], or [...] before the first step

    @torch.no_grad()
    def step(self, fast: FastWeights, gradients: Mapping[str, Tensor], rate: float) -> FastWeights:
        """Return every task's weights after a step; weights without a gradient stay unchanged."""
        self.steps += 1
        rate = rate * (1 - DECAY**self.steps) ** 0.5
        after = dict(fast)
        for name, gradient in gradients.items():
            before = self.squares.get(name, self._memory.square(name))
            square = self.squares[name] = DECAY * before + (1 - DECAY) * gradient.square()
            after[name] = fast[name] - rate * gradient / (square.sqrt() + EPS)
        return after

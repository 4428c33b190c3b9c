"""Inner optimizers: the update rules of the inner loop, with their state during one adaptation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from maml_fast.inner_loop._rates import Rate
from maml_fast.inner_loop._values import FastWeights, Gradients, MaybePerStep, values_at_step

__all__ = ["INNER_OPTIMIZERS", "SGD", "Adam", "InnerOptimizer", "LearnedRule", "Rule"]

Rule: TypeAlias = Mapping[str, MaybePerStep[Rate]]  # see Theta


class InnerOptimizer(Protocol):
    """Inner optimizer of one adaptation of all tasks.

    A new one is created from the ``rule`` of :class:`maml_fast.inner_loop._problem.Theta` for every adaptation. Its
    :meth:`step` is called once per inner step. The result of a step must be differentiable with respect to the weights,
    the rule and, at second order, the gradients and the losses.
    """

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        """Return the tasks' weights after the next step.

        Args:
            fast: the current weights, [T, ...] by name.
            losses: the support losses, [T].
            gradients: the gradients, [T, ...] by name. A weight without a gradient stays unchanged.
        """


class LearnedRule(nn.Module, ABC):
    """Base class of learned inner optimizers, whose own parameters are meta-learned together with the model.

    A learned rule has no learning rates. Pass an instance as ``inner_optimizer`` of :class:`maml_fast.MAML`, with
    ``inner_lr=None``.
    """

    @abstractmethod
    def begin(self, rule: Rule) -> InnerOptimizer:
        """Return the inner optimizer of one adaptation of all tasks.

        Args:
            rule: the values of this module's parameters, by name. Use these instead of the parameters of ``self``;
                otherwise the gradient that is accumulated over chunks of tasks misses them.

        Returns:
            An object with a method ``step(fast, losses, gradients) -> fast``, called once per inner step. It maps the
                tasks' weights ([T, ...] by name), support losses [T] and gradients ([T, ...] by name) to the weights
                after the step. The result must be differentiable with respect to the weights, the rule and, at second
                order, the losses and gradients. A weight without a gradient stays unchanged.
        """


class SGD:
    """Gradient descent, ``w - rate * dL/dw`` (Finn et al. 2017, eq. 1)."""

    def __init__(self, rates: Rule) -> None:
        self._rates = rates
        self._steps = 0

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        rates = values_at_step(self._rates, self._steps)
        self._steps += 1
        return _descend(fast, gradients, rates)


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) with β1 = 0.9, β2 = 0.999 and ε = 1e-8, from zero moments for every task.

    The steps equal those of ``torch.optim.Adam``. If all gradients so far were zero, like those of a dead ReLU, the
    square root of the second moment has no derivative. It is taken to be 0, so that the meta-gradient stays finite.
    """

    MOMENTUM, DECAY, EPS = 0.9, 0.999, 1e-8

    def __init__(self, rates: Rule) -> None:
        self._rates = rates
        self._steps = 0
        self._means: Gradients = {}
        self._squares: Gradients = {}

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        rates = values_at_step(self._rates, self._steps)
        self._steps += 1
        return _descend(fast, {name: self._direction(name, each) for name, each in gradients.items()}, rates)

    def _direction(self, name: str, gradient: Tensor) -> Tensor:
        mean = self._means[name] = _moving_average(self._means.get(name), gradient, self.MOMENTUM)
        square = self._squares[name] = _moving_average(self._squares.get(name), gradient.square(), self.DECAY)
        mean = mean / (1 - self.MOMENTUM**self._steps)
        square = square / (1 - self.DECAY**self._steps)
        return mean / (_safe_sqrt(square) + self.EPS)


INNER_OPTIMIZERS: Mapping[str, Callable[[Rule], InnerOptimizer]] = {
    "sgd": SGD,
    "adam": Adam,
}


def _moving_average(before: Tensor | None, now: Tensor, decay: float) -> Tensor:
    """Return the updated exponential moving average; it starts at zero."""
    return now * (1 - decay) if before is None else torch.lerp(now, before, decay)


def _safe_sqrt(square: Tensor) -> Tensor:
    """Return the square root, with derivative 0 at 0."""
    positive = square > 0
    return torch.where(positive, square.where(positive, 1.0).sqrt(), 0.0)


def _descend(fast: FastWeights, directions: Mapping[str, Tensor], rates: Mapping[str, Rate]) -> FastWeights:
    """Return ``w - rate * direction``; weights without a direction stay unchanged."""
    after = dict(fast)
    names_of: dict[float, list[str]] = {}  # weights with the same number as rate are updated in one call
    for name, direction in directions.items():
        rate = rates[name]
        if isinstance(rate, Tensor):
            after[name] = fast[name] - rate * direction
        else:
            names_of.setdefault(rate, []).append(name)
    for number, names in names_of.items():
        weights, steps = [fast[name] for name in names], [directions[name] for name in names]
        after.update(zip(names, torch._foreach_add(weights, steps, alpha=-number), strict=True))
    return after

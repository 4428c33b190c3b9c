"""How the inner loop makes a step of its gradients: a rule, and what it remembers of one adaptation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from maml_fast.maml._inner_rates import Rate
from maml_fast.maml._values import FastWeights, Gradients, MaybePerStep, at_step

__all__ = ["INNER_OPTIMIZERS", "SGD", "Adam", "InnerOptimizer", "LearnedRule", "Rule"]

Rule: TypeAlias = Mapping[str, MaybePerStep[Rate]]  # as Theta says it


class InnerOptimizer(Protocol):
    """One adaptation of all tasks, made new for each: ``optimizer(rule).step(...)``, once for every inner step.

    ``rule`` is that of :class:`maml_fast.maml._problem.Theta`. What a step returns must be differentiable with
    respect to the weights, the rule and, at second order, the gradients and the losses.
    """

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        """The tasks' weights after the next step, from their weights [T, ...], losses [T] and gradients [T, ...].

        Weights without a gradient stay.
        """


class LearnedRule(nn.Module, ABC):
    """An inner optimizer without learning rates: what it knows are its own parameters, meta-learned beside theta.

    They reach :meth:`begin` by their names, through the ``rule`` of :class:`maml_fast.maml._problem.Theta`: take them
    from there and not from ``self``, or the gradient in chunks of tasks would miss them.
    """

    @abstractmethod
    def begin(self, rule: Rule) -> InnerOptimizer:
        """One adaptation of all tasks, by parameters of these values."""


class SGD:
    """``w - rate * dL/dw`` (Finn et al. 2017, eq. 1)."""

    def __init__(self, rates: Rule) -> None:
        self._rates = rates
        self._steps = 0

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        """Every task's weights after the step."""
        rates = at_step(self._rates, self._steps)
        self._steps += 1
        return _descended(fast, gradients, rates)


class Adam:
    """Adam from fresh memory (Kingma & Ba 2015, algorithm 1), with β1 = 0.9, β2 = 0.999 and ε = 1e-8, for each task.

    The steps are those of ``torch.optim.Adam``. Where a gradient has been zero so far, as a dead ReLU's is, the root of
    its mean square has no derivative: it is taken for 0, so that the meta-gradient stays finite.
    """

    MOMENTUM, DECAY, EPS = 0.9, 0.999, 1e-8

    def __init__(self, rates: Rule) -> None:
        self._rates = rates
        self._steps = 0
        self._means: Gradients = {}
        self._squares: Gradients = {}

    def step(self, fast: FastWeights, losses: Tensor, gradients: Gradients) -> FastWeights:
        """Every task's weights after the step."""
        rates = at_step(self._rates, self._steps)
        self._steps += 1
        return _descended(fast, {name: self._direction(name, each) for name, each in gradients.items()}, rates)

    def _direction(self, name: str, gradient: Tensor) -> Tensor:
        mean = self._means[name] = _moved(self._means.get(name), gradient, self.MOMENTUM)
        square = self._squares[name] = _moved(self._squares.get(name), gradient.square(), self.DECAY)
        mean = mean / (1 - self.MOMENTUM**self._steps)
        square = square / (1 - self.DECAY**self._steps)
        return mean / (_root(square) + self.EPS)


INNER_OPTIMIZERS: Mapping[str, Callable[[Rule], InnerOptimizer]] = {
    "sgd": SGD,
    "adam": Adam,
}


def _moved(before: Tensor | None, now: Tensor, decay: float) -> Tensor:
    """The exponential moving average that begins at zero."""
    return now * (1 - decay) if before is None else torch.lerp(now, before, decay)


def _root(square: Tensor) -> Tensor:
    """The square root, and 0 for its derivative where that is infinite."""
    positive = square > 0
    return torch.where(positive, square.where(positive, 1.0).sqrt(), 0.0)


def _descended(fast: FastWeights, directions: Mapping[str, Tensor], rates: Mapping[str, Rate]) -> FastWeights:
    """``w - rate * direction``; what has no direction stays."""
    after = dict(fast)
    names_of: dict[float, list[str]] = {}  # that one number is the rate of: they go together
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

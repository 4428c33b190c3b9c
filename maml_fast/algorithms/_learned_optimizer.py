"""A learned optimizer: an LSTM reads the gradient of a weight and outputs its update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from maml_fast._arguments import choice, flag, int_from, number, takes
from maml_fast.algorithms._coordinate_lstm import CoordinateLSTM, affine, lstm_parameters, uniform
from maml_fast.algorithms._coordinates import CoordinateOptimizer, preprocessed
from maml_fast.inner_loop._optimizers import LearnedRule, Rule
from maml_fast.inner_loop._problem import InnerProblem
from maml_fast.maml import MAML

__all__ = ["LearnedOptimizer"]

OBJECTIVES = ("trajectory", "last")


class LearnedOptimizer(MAML):
    """MAML whose inner step is ``w + scale * m(g)``, with m a two-layer LSTM (Andrychowicz et al. 2016, section 2).

    All weights share the LSTM, and every weight of every task has its own LSTM state. The LSTM reads gradients as
    :func:`maml_fast.algorithms._coordinates.preprocessed` returns them. Its parameters are meta-learned.

    Args:
        model: as for :class:`maml_fast.MAML`.
        inner_lr: scale of the LSTM's output.
        inner_steps: gradient steps on the support set.
        order: 1 treats the inner gradients as constants, as in the paper; 2 differentiates through them.
        hidden: hidden size of each LSTM layer.
        objective: ``"trajectory"`` is the mean of the query losses after every inner step (the paper's sum up to a
            factor), which gives early steps a gradient that does not pass through all later steps; ``"last"`` is the
            query loss after the last step.
        learn_start: whether to meta-learn the weights that adaptation starts from, as is usual in few-shot learning.
            If not, training starts from random weights, drawn anew for every meta-batch (in the paper: for every
            task): the model's own initial values, those of each parameter in a new random order. Evaluation then
            starts from the initial values in their original order.
        options: other arguments of :class:`maml_fast.MAML`, except those about its learning rates. The loss along the
            trajectory is not annealed.

    Raises:
        TypeError, ValueError: for an argument out of its range.
    """

    objective: str
    learn_start: bool = True

    @takes(inner_lr=number(above=0), hidden=int_from(1), objective=choice(*OBJECTIVES), learn_start=flag)
    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        order: int = 1,
        hidden: int = 20,
        objective: str = "trajectory",
        learn_start: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            inner_lr=None,
            inner_steps=inner_steps,
            order=order,
            inner_optimizer=_UpdateLSTM(hidden, inner_lr),
            **options,
        )
        self.objective = objective
        self.learn_start = learn_start

    def problem(
        self, parameters: Mapping[str, nn.Parameter], inner_steps: int | None, *, objective: bool = False
    ) -> InnerProblem:
        """Return MAML's problem with the chosen initial weights and objective."""
        problem = super().problem(parameters, inner_steps, objective=objective)
        if not self.learn_start:
            problem = _with_start(problem, _shuffled if objective else Tensor.detach)
        if not objective or self.objective == "last" or not problem.steps:
            return problem
        return replace(problem, step_weights=(1 / problem.steps,) * problem.steps)


def _with_start(problem: InnerProblem, start: Callable[[Tensor], Tensor]) -> InnerProblem:
    """Return the problem with initial weights ``start(weight)``, as new leaves of the autograd graph."""
    adapted = {name: start(weight).detach().requires_grad_() for name, weight in problem.theta.adapted.items()}
    return replace(problem, theta=problem.theta._replace(adapted=adapted))


def _shuffled(weight: Tensor) -> Tensor:
    """Return the same values in a random order."""
    return weight.flatten()[torch.randperm(weight.numel(), device=weight.device)].view_as(weight)


class _UpdateLSTM(LearnedRule):
    def __init__(self, hidden: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.lstm0 = lstm_parameters(2, hidden)
        self.lstm1 = lstm_parameters(hidden, hidden)
        self.weight = uniform(1, hidden, bound=hidden**-0.5)
        self.bias = nn.Parameter(torch.zeros(1))

    def begin(self, rule: Rule) -> _Updates:
        return _Updates(rule, self.scale)


class _Updates(CoordinateOptimizer):
    def __init__(self, rule: Mapping[str, Any], scale: float) -> None:
        super().__init__()
        self._layers = CoordinateLSTM(rule, "lstm0"), CoordinateLSTM(rule, "lstm1")
        self._weight, self._bias = rule["weight"], rule["bias"]
        self._scale = scale

    def next_weights(self, weights: Tensor, gradients: Tensor, losses: Tensor) -> Tensor:
        hidden = preprocessed(gradients)  # [2, N]
        for layer in self._layers:
            hidden = layer.step(hidden)
        return weights + self._scale * affine(self._bias, self._weight, hidden)[0]

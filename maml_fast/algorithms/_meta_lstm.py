"""An LSTM whose cell state is the learner's weights: its gates decide what of a weight stays, and how far it moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maml_fast._arguments import number, takes, whole
from maml_fast.algorithms._coordinate_lstm import CoordinateLSTM, affine, lstm_parameters, uniform
from maml_fast.algorithms._coordinates import CoordinateOptimizer, preprocessed
from maml_fast.maml import MAML
from maml_fast.maml._inner_optimizers import LearnedRule, Rule

__all__ = ["MetaLSTM"]

FORGET_BIAS = 5.0  # a weight keeps 99.3 % of itself: the middle of what the authors' code draws from, 4 to 6
GATE_BOUND = 0.01  # of the gates' weights, drawn between ±: as in the authors' code


class MetaLSTM(MAML):
    """MAML whose inner step is ``f * w - i * g``, with gates f and i of an LSTM (Ravi & Larochelle 2017, eq. 2 and 3).

    An ordinary LSTM reads gradient and loss, both as :func:`maml_fast.algorithms._coordinates.preprocessed` has them.
    The gates are ``sigmoid(W [h, w, gate before] + b)`` of its hidden state h, the weight, and the gate's value at the
    step before, 0 at first. All weights share both LSTMs, and every weight of every task has a state of its own. What
    they start from, the first cell state, is the model, meta-learned like the LSTMs' parameters.

    Args:
        model: as for :class:`maml_fast.MAML`.
        inner_lr: where the input gate begins, between 0 and 1: first steps are about gradient descent at this rate,
            but for weights that shrink by 0.7 % a step. The authors' code draws it between 0.007 and 0.018.
        inner_steps: steps on the support set.
        order: 1 takes the inner gradients as constants, as in the paper; 2 differentiates through them.
        hidden: of the LSTM that reads gradients.
        options: others of :class:`maml_fast.MAML`, but what has to do with its learning rates.

    Raises:
        TypeError, ValueError: for an argument out of its range.
    """

    @takes(inner_lr=number(above=0, below=1), hidden=whole(1))
    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        order: int = 1,
        hidden: int = 20,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            inner_lr=None,
            inner_steps=inner_steps,
            order=order,
            inner_optimizer=_GateLSTM(hidden, inner_lr),
            **options,
        )


class _GateLSTM(LearnedRule):
    def __init__(self, hidden: int, inner_lr: float) -> None:
        super().__init__()
        self.lstm = lstm_parameters(4, hidden)
        self.forget = _gate(hidden, FORGET_BIAS)
        self.input = _gate(hidden, math.log(inner_lr / (1 - inner_lr)))

    def begin(self, rule: Rule) -> _Cell:
        return _Cell(rule)


def _gate(hidden: int, bias: float) -> nn.ParameterDict:
    """weight [1, H + 2], of hidden state, weight and gate, and bias [1]."""
    return nn.ParameterDict(
        {"weight": uniform(1, hidden + 2, bound=GATE_BOUND), "bias": nn.Parameter(torch.tensor([bias]))}
    )


class _Gate:
    """A gate on its way, from 0 on."""

    def __init__(self, rule: Mapping[str, Any], name: str) -> None:
        self._weight, self._bias = rule[f"{name}.weight"], rule[f"{name}.bias"]
        self._before: Tensor | None = None

    def step(self, hidden: Tensor, cell: Tensor) -> Tensor:
        """The gate [N] at hidden states [H, N] and cells [N]."""
        before = torch.zeros_like(cell) if self._before is None else self._before
        of_hidden, of_cell, of_gate = self._weight.split([len(hidden), 1, 1], dim=1)
        logits = affine(self._bias, of_hidden, hidden)[0] + of_cell[0] * cell + of_gate[0] * before
        self._before = logits.sigmoid()
        return self._before


class _Cell(CoordinateOptimizer):
    def __init__(self, rule: Mapping[str, Any]) -> None:
        super().__init__()
        self._lstm = CoordinateLSTM(rule, "lstm")
        self._forget, self._input = _Gate(rule, "forget"), _Gate(rule, "input")

    def moved(self, weights: Tensor, gradients: Tensor, losses: Tensor) -> Tensor:
        hidden = self._lstm.step(torch.cat([preprocessed(gradients), preprocessed(losses)]))  # [H, N]
        return self._forget.step(hidden, weights) * weights - self._input.step(hidden, weights) * gradients

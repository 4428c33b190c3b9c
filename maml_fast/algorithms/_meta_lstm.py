"""An LSTM whose cell state is the learner's weights: gates set how much of a weight is kept and how far it moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maml_fast._arguments import int_from, number, takes
from maml_fast.algorithms._coordinate_lstm import CoordinateLSTM, affine, lstm_parameters, uniform
from maml_fast.algorithms._coordinates import CoordinateOptimizer, preprocessed
from maml_fast.inner_loop._optimizers import LearnedRule, Rule
from maml_fast.maml import MAML

__all__ = ["MetaLSTM"]

FORGET_BIAS = 5.0  # sigmoid(5) = 99.3 % of a weight is kept; the authors' code draws the bias from 4 to 6
GATE_BOUND = 0.01  # the gates' weights are drawn within ±GATE_BOUND, as in the authors' code


class MetaLSTM(MAML):
    """MAML whose inner step is ``f * w - i * g``, with gates f and i of an LSTM (Ravi & Larochelle 2017, eq. 2 and 3).

    An ordinary LSTM reads the gradient and the loss, both as
    :func:`maml_fast.algorithms._coordinates.preprocessed` returns them. Each gate is
    ``sigmoid(W [h, w, previous gate] + b)``, from the LSTM's hidden state h, the weight w, and the gate's value at the
    previous step, which is 0 at first. All weights share both LSTMs, and every weight of every task has its own state.
    The initial cell state is the model's weights, which are meta-learned like the LSTMs' parameters.

    Args:
        model: as for :class:`maml_fast.MAML`.
        inner_lr: initial value of the input gate, between 0 and 1. Before training, a step is close to gradient
            descent at this rate, except that weights shrink by 0.7 % per step. The authors' code draws it between
            0.007 and 0.018.
        inner_steps: gradient steps on the support set.
        order: 1 treats the inner gradients as constants, as in the paper; 2 differentiates through them.
        hidden: hidden size of the LSTM that reads gradients.
        options: other arguments of :class:`maml_fast.MAML`, except those about its learning rates.

    Raises:
        TypeError, ValueError: for an argument out of its range.
    """

    @takes(inner_lr=number(above=0, below=1), hidden=int_from(1))
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
    """Return weight [1, H + 2], for hidden state, weight and previous gate, and bias [1]."""
    return nn.ParameterDict(
        {"weight": uniform(1, hidden + 2, bound=GATE_BOUND), "bias": nn.Parameter(torch.tensor([bias]))}
    )


class _Gate:
    """A gate during one adaptation, 0 at first."""

    def __init__(self, rule: Mapping[str, Any], name: str) -> None:
        self._weight, self._bias = rule[f"{name}.weight"], rule[f"{name}.bias"]
        self._previous: Tensor | None = None

    def step(self, hidden: Tensor, cell: Tensor) -> Tensor:
        """Return the next value [N] of the gate, from hidden states [H, N] and cells [N]."""
        previous = torch.zeros_like(cell) if self._previous is None else self._previous
        hidden_weight, cell_weight, gate_weight = self._weight.split([len(hidden), 1, 1], dim=1)
        logits = affine(self._bias, hidden_weight, hidden)[0] + cell_weight[0] * cell + gate_weight[0] * previous
        self._previous = logits.sigmoid()
        return self._previous


class _Cell(CoordinateOptimizer):
    def __init__(self, rule: Mapping[str, Any]) -> None:
        super().__init__()
        self._lstm = CoordinateLSTM(rule, "lstm")
        self._forget, self._input = _Gate(rule, "forget"), _Gate(rule, "input")

    def next_weights(self, weights: Tensor, gradients: Tensor, losses: Tensor) -> Tensor:
        hidden = self._lstm.step(torch.cat([preprocessed(gradients), preprocessed(losses)]))  # [H, N]
        return self._forget.step(hidden, weights) * weights - self._input.step(hidden, weights) * gradients

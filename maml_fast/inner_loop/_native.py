"""The engine ``native``: all inner loops of a meta-batch in one native call, each task in one core's cache.

It computes the problems that :mod:`maml_fast.inner_loop._native_form` recognizes, if no autograd graph is requested.
Its results equal those of :mod:`maml_fast.inner_loop._composed` up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from maml_fast import ops
from maml_fast.data._checks import check_values
from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._gradient import loss_with_gradient
from maml_fast.inner_loop._losses import check_range
from maml_fast.inner_loop._metric import IGNORED
from maml_fast.inner_loop._rates import Rate
from maml_fast.inner_loop._values import MaybePerStep, PerStep, TaskResults
from maml_fast.lowering import Lowered
from maml_fast.program import ConvNet

__all__ = ["BlockNet", "NativeLoop", "NativeNet", "ProgramNet", "block_inputs", "tensor_of"]


class BlockNet(NamedTuple):
    """Conv blocks and a linear classifier with cross-entropy."""

    support: ConvNet
    query: ConvNet

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the kernels' order."""
        return self.support.names

    @property
    def n_classes(self) -> int | None:
        """Number of classes, for counting correct predictions."""
        return self.support.description.n_classes

    def run(self, theta: Sequence[Tensor], episodes: Episodes, *rates: Any, **options: Any) -> ops.InnerLoopsResult:
        x_spt, y_spt, x_qry, y_qry = episodes
        prepared = block_inputs(self.support, x_spt), y_spt, block_inputs(self.query, x_qry), y_qry
        return ops.inner_loops(self.support.description, theta, prepared, *rates, **options)

    def check(self, episodes: Episodes) -> None:
        """Raise an error that names the invalid value; called after the kernels have rejected the episodes."""
        _check_classes(episodes, self.support.description.n_classes)


class ProgramNet(NamedTuple):
    """A recorded model and its loss.

    Attributes:
        lowered: both, as native operations.
        n_classes: number of classes, for counting correct predictions; ``None`` if these are not counted.
    """

    lowered: Lowered
    n_classes: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors that the net reads, in the kernels' order."""
        return self.lowered.names

    def run(self, theta: Sequence[Tensor], episodes: Episodes, *rates: Any, **options: Any) -> ops.InnerLoopsResult:
        x_spt, y_spt, x_qry, y_qry = episodes
        if self.lowered.takes_whole:
            for name, x in (("x_spt", x_spt), ("x_qry", x_qry)):
                _check_indices(x, self.lowered.entries, name)
        dtype = theta[0].dtype
        prepared = x_spt.to(dtype), y_spt, x_qry.to(dtype), y_qry
        # From PyTorch's generator, so that torch.manual_seed decides what the kernels draw.
        seed = int(torch.randint(2**63 - 1, ())) if self.lowered.is_random else 0
        return ops.inner_loops(self.lowered.model, theta, prepared, *rates, seed=seed, **options)

    def check(self, episodes: Episodes) -> None:
        """Raise an error that names the invalid value; called after the kernels have rejected the episodes."""
        if self.lowered.model.classes:
            return _check_classes(episodes, self.lowered.model.classes)
        return check_values(episodes, None, classification=False, ignored=IGNORED)


NativeNet: TypeAlias = BlockNet | ProgramNet


@dataclass(frozen=True)
class NativeLoop:
    """An inner problem in native form; :func:`maml_fast.inner_loop._native_form.native_loop` creates it.

    The caller must have checked the shapes and types of episodes. Their values are checked here.
    """

    net: NativeNet
    theta: list[MaybePerStep[Tensor]]  # in the order of net.names
    rates: list[MaybePerStep[Rate]]  # in the same order
    steps: int
    order: int
    step_weights: Mapping[int, float]  # weight of the query loss after a step, by step
    tasks_at_once: int
    steps_kept: int | None
    counts_correct: bool  # whether to return numbers of correct predictions

    def results(self, episodes: Episodes, scored: tuple[int, ...]) -> TaskResults:
        """Return every task's query results, without a graph."""
        return replace(self, step_weights={self.steps: 1.0})._run(episodes, scored, needs_gradient=False)[0]

    def loss(self, episodes: Episodes, scored: tuple[int, ...]) -> tuple[TaskResults, Tensor]:
        """Return the results, and the tasks' mean objective with its gradient."""
        needs_gradient = torch.is_grad_enabled() and (any(self._theta_is_learned) or any(self._rate_is_learned))
        results, loss, gradients = self._run(episodes, scored, needs_gradient=needs_gradient)
        return results, loss_with_gradient(loss, gradients) if needs_gradient else loss

    @cached_property
    def _theta_is_learned(self) -> list[bool]:
        return [_is_learned(parameter) for parameter in self.theta]

    @cached_property
    def _rate_is_learned(self) -> list[bool]:
        return [_is_learned(rate) for rate in self.rates]

    @cached_property
    def _numbers(self) -> dict[float, Tensor]:
        """The rates that are numbers as tensors [1], which parameters with the same rate share."""
        return {
            rate: tensor_of(self.theta[0]).detach().new_full((1,), rate)
            for rate in self.rates
            if isinstance(rate, float)
        }

    @torch.no_grad()
    def _run(
        self, episodes: Episodes, scored: tuple[int, ...], *, needs_gradient: bool
    ) -> tuple[TaskResults, Tensor, dict[Tensor, Tensor]]:
        theta = [each.rows(max(self.steps, 1)) if isinstance(each, PerStep) else each for each in self.theta]
        rates = [
            self._numbers[rate] if isinstance(rate, float) else _kernel_rate(rate, parameter, self.steps)
            for rate, parameter in zip(self.rates, theta, strict=True)
        ]
        rows = sorted({*scored, *self.step_weights})
        weights = [self.step_weights.get(step, 0.0) for step in rows]
        try:
            result = self.net.run(
                theta,
                episodes,
                rates,
                self._rate_is_learned if needs_gradient else [False] * len(rates),
                steps=self.steps,
                order=self.order,
                scored=rows,
                step_weights=weights,
                tasks_at_once=self.tasks_at_once,
                steps_kept=self.steps_kept,
                needs_gradient=needs_gradient,
            )
        except RuntimeError:
            self.net.check(episodes)
            raise
        losses, correct = result.losses, result.correct
        if len(rows) > len(scored):  # some steps count only toward the objective
            asked = [rows.index(step) for step in scored]
            losses, correct = losses[asked], correct[asked]
        results = TaskResults(losses, correct, result.predictions) if self.counts_correct else TaskResults(losses)
        return results, result.objective, self._by_source(result) if needs_gradient else {}

    def _by_source(self, result: ops.InnerLoopsResult) -> dict[Tensor, Tensor]:
        """Return the gradients by source tensor; parameters that share a rate add up to its gradient."""
        gradients: dict[Tensor, Tensor] = {}
        for parameter, gradient, is_learned in zip(self.theta, result.gradient, self._theta_is_learned, strict=True):
            if isinstance(parameter, PerStep):
                gradient = parameter.gradient_of_values(gradient)
            if is_learned:
                gradients[tensor_of(parameter)] = gradient
        learned = [rate for rate, is_learned in zip(self.rates, self._rate_is_learned, strict=True) if is_learned]
        for rate, gradient in zip(learned, result.rate_gradient, strict=True):
            each, source = _rate_gradient(gradient, rate), tensor_of(rate)
            gradients[source] = gradients[source] + each if source in gradients else each
        return gradients


def tensor_of(source: Tensor | PerStep | float) -> Tensor:
    """Return the tensor that holds a value or its per-step values."""
    assert not isinstance(source, float)
    return source.values if isinstance(source, PerStep) else source


def _is_learned(source: MaybePerStep[Rate]) -> bool:
    return not isinstance(source, float) and tensor_of(source).requires_grad


def _kernel_rate(rate: Tensor | PerStep, parameter: Tensor, steps: int) -> Tensor:
    """Return a rate as the kernels take it: [R], or elementwise [R, *parameter.shape], with R = 1 or ``steps``."""
    rows = rate.rows(max(steps, 1)) if isinstance(rate, PerStep) else rate[None]
    return rows.flatten() if rows[0].numel() == 1 else torch.stack([row.expand(parameter.shape) for row in rows])


def _rate_gradient(gradient: Tensor, rate: MaybePerStep[Rate]) -> Tensor:
    """Return a rate's gradient, given the gradient of what :func:`_kernel_rate` returned for it."""
    shape = rate.values.shape[1:] if isinstance(rate, PerStep) else tensor_of(rate).shape
    rows = [row.reshape(shape) if shape.numel() == 1 else row.sum_to_size(shape) for row in gradient]
    return rate.gradient_of_values(torch.stack(rows)) if isinstance(rate, PerStep) else rows[0]


def block_inputs(net: ConvNet, x: Tensor) -> Tensor:
    """Return the input of the first conv block: ``x`` after the operations that precede the blocks."""
    for line in net.before:
        x = line.step.run(x)
    return x


def _check_classes(episodes: Episodes, n_classes: int) -> None:
    check_values(episodes, None, classification=True, ignored=IGNORED)
    for name, labels in (("y_spt", episodes.y_spt), ("y_qry", episodes.y_qry)):
        check_range(labels, n_classes, name)


def _check_indices(x: Tensor, entries: int | None, name: str) -> None:
    """Raise unless ``x`` holds valid indices of a table with ``entries`` rows; ``None`` means any number of rows."""
    if x.is_floating_point() and not torch.equal(x, x.floor()):
        raise ValueError(f"{name} must hold whole numbers: the model uses its input as indices")
    least, most = (int(value) for value in torch.aminmax(x))
    if least < 0 or (entries is not None and most >= entries):
        wrong = least if least < 0 else most
        raise IndexError(f"{name} holds the index {wrong}, but the model's table has {entries} rows")

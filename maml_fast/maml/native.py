"""The inner loops of a meta-batch as one native call, which takes each task through all its steps in one core's cache.

For what :mod:`maml_fast.maml.native_nets` recognises, where nobody asks for the graph. The results are those of
:mod:`maml_fast.maml.composed`, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from maml_fast import native, ops
from maml_fast.data.episodes import Episodes
from maml_fast.lowering import OF_LOSS
from maml_fast.maml.chunks import TaskChunk
from maml_fast.maml.gradient import hand_out
from maml_fast.maml.inner_optimisers import SGD
from maml_fast.maml.inner_rates import Rate
from maml_fast.maml.metric import Accuracy
from maml_fast.maml.native_nets import NativeNet, native_net
from maml_fast.maml.problem import InnerProblem, Theta
from maml_fast.maml.values import MaybePerStep, PerStep, TaskResults

__all__ = ["NativeLoop", "native_loop"]


@dataclass(frozen=True)
class NativeLoop:
    """``inner_steps`` steps of a net from theta; make it with :func:`native_loop`.

    Shapes and types of episodes must be checked. Their values are checked here.
    """

    net: NativeNet
    theta: list[MaybePerStep[Tensor]]  # in the net's order, as the rates are
    rates: list[MaybePerStep[Rate]]
    steps: int
    order: int
    step_weights: Mapping[int, float]  # of the query losses after these steps
    tasks_at_once: int
    steps_kept: int | None
    judged: bool  # whether right predictions are asked for

    def results(self, episodes: Episodes, scored: tuple[int, ...]) -> TaskResults:
        """Every task's query results, without a graph."""
        return replace(self, step_weights={self.steps: 1.0})._run(episodes, scored, needs_gradient=False)[0]

    def loss(self, episodes: Episodes, scored: tuple[int, ...]) -> tuple[TaskResults, Tensor]:
        """The results, and the tasks' mean objective, which carries the gradient."""
        needs_gradient = torch.is_grad_enabled() and (any(self._theta_is_learned) or any(self._rate_is_learned))
        results, loss, gradients = self._run(episodes, scored, needs_gradient=needs_gradient)
        return results, hand_out(loss, gradients) if needs_gradient else loss

    @cached_property
    def _theta_is_learned(self) -> list[bool]:
        return [_is_learned(parameter) for parameter in self.theta]

    @cached_property
    def _rate_is_learned(self) -> list[bool]:
        return [_is_learned(rate) for rate in self.rates]

    @cached_property
    def _numbers(self) -> dict[float, Tensor]:
        """Rates that are numbers, as the kernels take them: one tensor for all parameters that have it."""
        return {
            rate: _tensor(self.theta[0]).detach().new_full((1,), rate) for rate in self.rates if isinstance(rate, float)
        }

    @torch.no_grad()
    def _run(
        self, episodes: Episodes, scored: tuple[int, ...], *, needs_gradient: bool
    ) -> tuple[TaskResults, Tensor, dict[Tensor, Tensor]]:
        theta = [each.rows(max(self.steps, 1)) if isinstance(each, PerStep) else each for each in self.theta]
        rates = [
            self._numbers[rate] if isinstance(rate, float) else _of_kernels(rate, parameter, self.steps)
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
        if len(rows) > len(scored):  # some are part of the objective alone
            asked = [rows.index(step) for step in scored]
            losses, correct = losses[asked], correct[asked]
        results = TaskResults(losses, correct, result.predictions) if self.judged else TaskResults(losses)
        return results, result.objective, self._by_source(result) if needs_gradient else {}

    def _by_source(self, result: ops.InnerLoopsResult) -> dict[Tensor, Tensor]:
        """The gradients by the tensor that they are of; one rate may stand for several parameters."""
        gradients: dict[Tensor, Tensor] = {}
        for parameter, gradient, is_learned in zip(self.theta, result.gradient, self._theta_is_learned, strict=True):
            if isinstance(parameter, PerStep):
                gradient = parameter.of_rows(gradient)
            if is_learned:
                gradients[_tensor(parameter)] = gradient
        learned = [rate for rate, is_learned in zip(self.rates, self._rate_is_learned, strict=True) if is_learned]
        for rate, gradient in zip(learned, result.rate_gradient, strict=True):
            each, source = _of_rate(gradient, rate), _tensor(rate)
            gradients[source] = gradients[source] + each if source in gradients else each
        return gradients


def _tensor(source: Tensor | PerStep | float) -> Tensor:
    """The tensor that a gradient belongs to."""
    assert not isinstance(source, float)
    return source.values if isinstance(source, PerStep) else source


def _is_learned(source: MaybePerStep[Rate]) -> bool:
    return not isinstance(source, float) and _tensor(source).requires_grad


def _of_kernels(rate: Tensor | PerStep, parameter: Tensor, steps: int) -> Tensor:
    """A rate as the kernels take it: [R] for the whole parameter, or [R, *parameter.shape], R = 1 or steps."""
    rows = rate.rows(max(steps, 1)) if isinstance(rate, PerStep) else rate[None]
    return rows.flatten() if rows[0].numel() == 1 else torch.stack([row.expand(parameter.shape) for row in rows])


def _of_rate(gradient: Tensor, rate: MaybePerStep[Rate]) -> Tensor:
    """A rate's gradient from that of what the kernels took."""
    shape = rate.values.shape[1:] if isinstance(rate, PerStep) else _tensor(rate).shape
    rows = [row.reshape(shape) if shape.numel() == 1 else row.sum_to_size(shape) for row in gradient]
    return rate.of_rows(torch.stack(rows)) if isinstance(rate, PerStep) else rows[0]


def native_loop(problem: InnerProblem, episodes: Episodes, chunk: TaskChunk) -> NativeLoop | str:
    """Return the native form of a problem on checked episodes, or what keeps it from having one."""
    if problem.theta.device.type != "cpu":
        return f"on {problem.theta.device.type}, where all tasks of an operation run at once"
    if native.library() is None:
        return "there are no native kernels"
    if isinstance(problem.recorded, str):
        return problem.recorded
    if problem.judge is not None and not isinstance(problem.judge, Accuracy):
        return "metric is a function of your own"
    if problem.optimiser is not SGD:
        return "inner steps are not plain gradient descent"
    if problem.blocks is not None:
        return "batch norm keeps statistics of every step"
    found = _obstacle_in_rates(problem.theta) or _obstacle_in_modes() or _obstacle_in_episodes(episodes)
    net = found or native_net(problem, episodes)
    if isinstance(net, str):
        return net
    parameters = {**problem.theta.shared, **problem.theta.adapted}
    if any(name not in parameters for name in net.names):
        parameters = {**_other_tensors(problem), **parameters}
    theta = [parameters[name] for name in net.names]
    rates = [problem.theta.rule.get(name, 0.0) for name in net.names]
    weights = problem.weights_of_steps()
    held = _tasks_at_once(chunk, episodes.meta_batch_size)
    judged = problem.judge is not None and net.n_classes is not None
    return NativeLoop(net, theta, rates, problem.steps, problem.order, weights, held, problem.steps_kept, judged)


def _other_tensors(problem: InnerProblem) -> dict[str, Tensor]:
    """The model's buffers, and the loss's."""
    assert not isinstance(problem.recorded, str)
    assert problem.watched_loss is not None
    of_loss = problem.watched_loss.tensors(problem.loss_fn)
    buffers = problem.forward.with_buffers({}, problem.recorded)
    return {**buffers, **{OF_LOSS + name: tensor for name, tensor in of_loss.items()}}


def _tasks_at_once(chunk: TaskChunk, n_tasks: int) -> int:
    """In memory: by themselves as many as there are threads."""
    if isinstance(chunk, int):
        return chunk
    return n_tasks if chunk is None else torch.get_num_threads()


def _obstacle_in_rates(theta: Theta) -> str | None:
    for name, rate in theta.rule.items():
        if isinstance(rate, float):
            continue
        tensor, parameter = _tensor(rate), theta.adapted[name]
        if (tensor.dtype, tensor.device) != (parameter.dtype, parameter.device):
            return f"the inner learning rate of {name} is {tensor.dtype} on {tensor.device}"
    return None


def _obstacle_in_episodes(episodes: Episodes) -> str | None:
    if any(part.requires_grad for part in episodes):
        return "the images take a gradient"
    return None


def _obstacle_in_modes() -> str | None:
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    return "torch.compile is at work" if torch.compiler.is_compiling() else None

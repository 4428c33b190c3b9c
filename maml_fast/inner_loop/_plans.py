"""Plans: what a call computes and on which engine, cached for later calls of the same kind."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_fast import native
from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._chunks import TaskChunk, with_gradient
from maml_fast.inner_loop._composed import run
from maml_fast.inner_loop._engines import ChosenEngine, choose
from maml_fast.inner_loop._gradient import OutsideGraphError, loss_with_gradient
from maml_fast.inner_loop._native import NativeLoop
from maml_fast.inner_loop._problem import InnerProblem
from maml_fast.inner_loop._task_forward import LastCall, requested_engine
from maml_fast.inner_loop._third_derivatives import ThirdDerivativeGuard
from maml_fast.inner_loop._values import TaskResults

__all__ = ["Plan", "Plans", "global_modes", "plan_of", "results_of", "tensor_kinds"]


class Plan(NamedTuple):
    """How the results and the loss are computed for one kind of episodes.

    Attributes:
        problem: the inner problem, for images of these shapes.
        scored: the steps after which queries are scored.
        native: the problem's native form, if the native engine runs it.
        engine: the engine, and why it was chosen.
        forward: how the model runs.
    """

    problem: InnerProblem
    scored: tuple[int, ...]
    native: NativeLoop | None
    engine: ChosenEngine
    forward: LastCall

    def loss(self, episodes: Episodes) -> tuple[TaskResults, Tensor]:
        """Return the results without a graph, and the tasks' mean objective with its gradient.

        Under transforms of ``torch.func``, which need it, the objective has a graph instead.
        """
        if self.native is not None:
            return self.native.loss(episodes, self.scored)
        tasks = self.engine.tasks_at_once
        transformed = torch._C._are_functorch_transforms_active()
        if transformed or not torch.is_grad_enabled():
            outcome = run(self.problem, episodes, self.scored, tasks)
            return outcome.results.detached(), outcome.objectives.mean()
        try:
            results, loss, gradients = with_gradient(self.problem, episodes, self.scored, tasks)
        except OutsideGraphError as error:
            raise RuntimeError(
                f"{error}, but maml(episodes) computes the gradient before it returns: compute that inside loss_fn, "
                "or use maml.task_results(episodes).losses[-1].mean(), which is the same loss with its graph"
            ) from error
        return results, loss_with_gradient(loss, gradients) if gradients else loss


def plan_of(problem: InnerProblem, episodes: Episodes, scored: tuple[int, ...], chunk: TaskChunk) -> Plan:
    """Return the plan of a problem, on the first engine that can run it."""
    forward = problem.forward.last
    assert forward is not None
    return Plan(problem, scored, *choose(problem, episodes, chunk), forward)


def results_of(
    problem: InnerProblem, episodes: Episodes, scored: tuple[int, ...], chunk: TaskChunk
) -> tuple[TaskResults, ChosenEngine]:
    """Return every task's query results; if gradients are enabled, with the graph of all tasks."""
    if torch.is_grad_enabled():
        _, engine = choose(problem, episodes, chunk, why_not_native="the graph of all tasks is kept")
        guard = ThirdDerivativeGuard()
        results = run(guard.watch(problem), episodes, scored).results
        guard.inspect([results.losses])
        return results, engine._replace(tasks_at_once=None)
    native_form, engine = choose(problem, episodes, chunk)
    if native_form is not None:
        return native_form.results(episodes, scored), engine
    return run(problem, episodes, scored, engine.tasks_at_once).results, engine


class Plans(dict[Hashable, Plan]):
    """The most recent plans, by everything that they depend on.

    A plan keeps alive all objects whose ids are part of its key.
    """

    MOST = 8

    def keep(self, key: Hashable, plan: Plan) -> None:
        """Add a plan, and drop the oldest ones beyond :attr:`MOST`."""
        for oldest in list(self)[: max(0, len(self) - self.MOST + 1)]:
            self.pop(oldest, None)  # another thread may have dropped it already
        self[key] = plan

    def __reduce__(self) -> Any:
        """A copy starts empty, because it belongs to another learner."""
        return Plans, ()


def tensor_kinds(tensors: Iterable[Tensor | None]) -> tuple[Hashable, ...]:
    """Return the properties of tensors that a plan may depend on: all but their values."""
    return tuple(
        None if x is None else (type(x), x.shape, x.dtype, x.device, x.layout, x.requires_grad) for x in tensors
    )


def global_modes() -> tuple[Hashable, ...]:
    """Return the global state that affects the choice of an engine: PyTorch's modes and the user's request."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_num_threads(),
        requested_engine.get(),
        native.library(),
    )

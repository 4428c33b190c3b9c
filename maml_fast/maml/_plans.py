"""What a call computes and what computes it, kept for the next call of its kind."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_fast import native
from maml_fast.data._episodes import Episodes
from maml_fast.maml._chunks import TaskChunk, with_gradient
from maml_fast.maml._composed import run
from maml_fast.maml._engines import Ran, choose
from maml_fast.maml._gradient import OutsideGraphError, loss_with_gradient
from maml_fast.maml._native import NativeLoop
from maml_fast.maml._problem import InnerProblem
from maml_fast.maml._task_forward import LastCall, asked_engine
from maml_fast.maml._third_derivatives import ThirdDerivatives
from maml_fast.maml._values import TaskResults

__all__ = ["Plan", "Plans", "kinds", "plan_of", "results_of", "surroundings"]


class Plan(NamedTuple):
    """What computes the results and the loss of episodes of a kind.

    problem: on their images.
    scored: the steps after which queries are scored.
    native: the problem's native form, if that engine runs it.
    ran: the engine, and why.
    forward: how the model runs.
    """

    problem: InnerProblem
    scored: tuple[int, ...]
    native: NativeLoop | None
    ran: Ran
    forward: LastCall

    def loss(self, episodes: Episodes) -> tuple[TaskResults, Tensor]:
        """The results without a graph, and the tasks' mean objective, which carries a ready gradient.

        Under the transforms of ``torch.func`` the objective carries a graph: they have no other way.
        """
        if self.native is not None:
            return self.native.loss(episodes, self.scored)
        tasks = self.ran.tasks
        transformed = torch._C._are_functorch_transforms_active()
        if transformed or not torch.is_grad_enabled():
            outcome = run(self.problem, episodes, self.scored, tasks)
            return outcome.results.detached(), outcome.objectives.mean()
        try:
            results, loss, gradients = with_gradient(self.problem, episodes, self.scored, tasks)
        except OutsideGraphError as error:
            raise RuntimeError(
                f"{error}, and the gradient of maml(episodes).loss is taken before it returns: compute that inside of "
                "loss_fn, or use maml.task_results(episodes).losses[-1].mean(), the same loss with its graph"
            ) from error
        return results, loss_with_gradient(loss, gradients) if gradients else loss


def plan_of(problem: InnerProblem, episodes: Episodes, scored: tuple[int, ...], chunk: TaskChunk) -> Plan:
    """By the first engine that can run it."""
    forward = problem.forward.last
    assert forward is not None
    return Plan(problem, scored, *choose(problem, episodes, chunk), forward)


def results_of(
    problem: InnerProblem, episodes: Episodes, scored: tuple[int, ...], chunk: TaskChunk
) -> tuple[TaskResults, Ran]:
    """Every task's query results; with gradients, their graph, of all tasks at once."""
    if torch.is_grad_enabled():
        _, ran = choose(problem, episodes, chunk, why_not_native="the graph of all tasks is kept")
        third = ThirdDerivatives()
        results = run(third.of(problem), episodes, scored).results
        third.look([results.losses])
        return results, ran._replace(tasks=None)
    native_form, ran = choose(problem, episodes, chunk)
    if native_form is not None:
        return native_form.results(episodes, scored), ran
    return run(problem, episodes, scored, ran.tasks).results, ran


class Plans(dict[Hashable, Plan]):
    """The last plans, by all that they follow from. Keys hold the identities of objects that their plans keep alive."""

    MOST = 8

    def keep(self, key: Hashable, plan: Plan) -> None:
        """Keep it in the place of the oldest."""
        for oldest in list(self)[: max(0, len(self) - self.MOST + 1)]:
            self.pop(oldest, None)  # other threads may keep theirs meanwhile
        self[key] = plan

    def __reduce__(self) -> Any:
        """Copies belong to other objects, and begin empty."""
        return Plans, ()


def kinds(tensors: Iterable[Tensor | None]) -> tuple[Hashable, ...]:
    """What a plan may know of tensors; their values may change."""
    return tuple(
        None if x is None else (type(x), x.shape, x.dtype, x.device, x.layout, x.requires_grad) for x in tensors
    )


def surroundings() -> tuple[Hashable, ...]:
    """What else decides on an engine: PyTorch's modes, and what the user asks for."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_num_threads(),
        asked_engine.get(),
        native.library(),
    )

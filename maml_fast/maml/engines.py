"""What can compute an inner loop, and the choice between them.

``native``: the whole loop as one call, each task in one core's cache (:mod:`maml_fast.maml.native`).
``batched``: the model's program in PyTorch's operations, all tasks of a chunk at once (:mod:`maml_fast.maml.composed`).
``loop``: the model as it is written, one task after another (there too).

The first that can run a problem runs it. That follows from the problem and the machine alone, never from a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from maml_fast.data.episodes import Episodes
from maml_fast.maml.chunks import TaskChunk, in_chunks, tasks_at_once, with_gradient
from maml_fast.maml.composed import run
from maml_fast.maml.gradient import OutsideGraphError, hand_out
from maml_fast.maml.native import NativeLoop, native_loop
from maml_fast.maml.problem import InnerProblem
from maml_fast.maml.task_forward import asked_engine
from maml_fast.maml.values import TaskResults

__all__ = ["ENGINES", "Ran", "choose", "loss_of", "results_of", "use_engine"]

ENGINES = ("native", "batched", "loop")


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Inside this context, and in this thread, MAML computes inner loops by one engine.

    Args:
        name: ``"native"``, ``"batched"`` or ``"loop"``.

    Raises:
        ValueError: there is no such engine.
        RuntimeError: from calls inside, where the engine can't compute what is asked for; the message says why.
    """
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {name!r}")
    token = asked_engine.set(name)
    try:
        yield
    finally:
        asked_engine.reset(token)


class Ran(NamedTuple):
    """What computed a problem.

    engine: one of :data:`ENGINES`.
    not_native: why the native engine did not; empty if it did.
    tasks: in memory at once; ``None`` for all.
    """

    engine: str
    not_native: str
    tasks: int | None

    def describe(self) -> list[str]:
        """A line each for engine and memory."""
        held = "all tasks" if self.tasks is None else f"{self.tasks} task{'s' if self.tasks > 1 else ''} at a time"
        if self.engine == "native":
            return ["inner loop: native, each task in one core's cache", f"in memory: {held}"]
        return [f"inner loop: operation by operation ({self.not_native})", f"in memory: {held}"]


def loss_of(
    problem: InnerProblem, episodes: Episodes, scored: tuple[int, ...], chunk: TaskChunk
) -> tuple[TaskResults, Tensor, Ran]:
    """The results without a graph, and the tasks' mean objective, which carries a ready gradient.

    Under the transforms of ``torch.func`` the objective carries a graph: they have no other way.
    """
    native, ran = choose(problem, episodes, chunk)
    if native is not None:
        return *native.loss(episodes, scored), ran
    transformed = torch._C._are_functorch_transforms_active()
    if transformed or not torch.is_grad_enabled():
        ran = ran._replace(tasks=None) if transformed else ran
        outcome = in_chunks(problem, episodes, scored, ran.tasks)
        return outcome.results.detached(), outcome.objectives.mean(), ran
    try:
        results, loss, gradients = with_gradient(problem, episodes, scored, ran.tasks)
    except OutsideGraphError as error:
        raise RuntimeError(
            f"{error}, and the gradient of maml(episodes).loss is taken before it returns: compute that inside of "
            "loss_fn, or use maml.task_results(episodes).losses[-1].mean(), the same loss with its graph"
        ) from error
    return results, hand_out(loss, gradients) if gradients else loss, ran


def results_of(
    problem: InnerProblem, episodes: Episodes, scored: tuple[int, ...], chunk: TaskChunk
) -> tuple[TaskResults, Ran]:
    """Every task's query results; with gradients, their graph, of all tasks at once."""
    if torch.is_grad_enabled():
        _, ran = choose(problem, episodes, chunk, why_not_native="the graph of all tasks is kept")
        return run(problem, episodes, scored).results, ran._replace(tasks=None)
    native, ran = choose(problem, episodes, chunk)
    if native is not None:
        return native.results(episodes, scored), ran
    return in_chunks(problem, episodes, scored, ran.tasks).results, ran


def choose(
    problem: InnerProblem, episodes: Episodes, chunk: TaskChunk, why_not_native: str | None = None
) -> tuple[NativeLoop | None, Ran]:
    """The first engine that can run a problem; its native form, if it is that one."""
    asked = asked_engine.get()
    n_tasks = episodes.meta_batch_size
    form: NativeLoop | str
    if asked in ("batched", "loop"):
        form = f"use_engine({asked!r})"
    else:
        form = why_not_native or native_loop(problem, episodes, chunk)
    if not isinstance(form, str):
        return form, Ran("native", "", _some(form.tasks_at_once, n_tasks))
    if asked == "native" and why_not_native is None:
        raise RuntimeError(f"the native engine can't run this: {form}")
    number = tasks_at_once(problem, chunk)
    return None, Ran("batched" if problem.together else "loop", form, _some(number, n_tasks))


def _some(number: int | None, n_tasks: int) -> int | None:
    """A number of tasks; ``None`` if it is all of them."""
    return number if number is not None and number < n_tasks else None

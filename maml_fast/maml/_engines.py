"""What can compute an inner loop, and the choice between them.

``native``: the whole loop as one call, each task in one core's cache (:mod:`maml_fast.maml._native`).
``batched``: the model's program in PyTorch's operations, all tasks of a chunk at once
    (:mod:`maml_fast.maml._composed`).
``loop``: the model as it is written, one task after another (there too).

The first that can run a problem runs it. That follows from the problem and the machine alone, never from a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from maml_fast._arguments import choice
from maml_fast.data._episodes import Episodes
from maml_fast.maml._chunks import TaskChunk, tasks_at_once
from maml_fast.maml._native import NativeLoop
from maml_fast.maml._native_form import native_loop
from maml_fast.maml._problem import InnerProblem
from maml_fast.maml._task_forward import asked_engine

__all__ = ["ENGINES", "Ran", "choose", "use_engine"]

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
    choice(*ENGINES)("engine", name)
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
            shared = self.tasks == 1 and torch.get_num_threads() > 1
            where = "all threads on one task" if shared else "each task in one core's cache"
            return [f"inner loop: native, {where}", f"in memory: {held}"]
        return [f"inner loop: operation by operation ({self.not_native})", f"in memory: {held}"]


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
        form = why_not_native or _native_form(problem, episodes, chunk)
    if not isinstance(form, str):
        problem.forward.note(problem.recorded[-1])  # type: ignore[arg-type]
        return form, Ran("native", "", form.tasks_at_once if form.tasks_at_once < n_tasks else None)
    if asked == "native" and why_not_native is None:
        raise RuntimeError(f"the native engine can't run this: {form}")
    number = None if torch._C._are_functorch_transforms_active() else tasks_at_once(problem, chunk)
    return None, Ran("batched" if problem.together else "loop", form, _some(number, n_tasks))


def _native_form(problem: InnerProblem, episodes: Episodes, chunk: TaskChunk) -> NativeLoop | str:
    """The problem's native form, or why it has none."""
    with_rows = problem.with_rows()
    return with_rows if isinstance(with_rows, str) else native_loop(with_rows, episodes, chunk)


def _some(number: int | None, n_tasks: int) -> int | None:
    """A number of tasks, such that all parts are of like size; ``None`` if it is all of them."""
    return math.ceil(n_tasks / math.ceil(n_tasks / number)) if number is not None and number < n_tasks else None

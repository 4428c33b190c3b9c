"""The engines that compute inner loops, and the choice between them.

- ``native`` runs the whole inner loop in one call, each task in one core's cache (:mod:`maml_fast.inner_loop._native`).
- ``batched`` runs the model's program in PyTorch operations, for all tasks of a chunk at once
  (:mod:`maml_fast.inner_loop._composed`).
- ``loop`` runs the model as it is written, one task after another (also :mod:`maml_fast.inner_loop._composed`).

The first engine in this order that can run a problem runs it. The choice depends only on the problem and the machine,
never on a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from maml_fast._arguments import choice
from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._chunks import TaskChunk, tasks_at_once
from maml_fast.inner_loop._native import NativeLoop
from maml_fast.inner_loop._native_form import native_loop
from maml_fast.inner_loop._problem import InnerProblem
from maml_fast.inner_loop._task_forward import requested_engine

__all__ = ["ENGINES", "ChosenEngine", "choose", "use_engine"]

ENGINES = ("native", "batched", "loop")


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Context manager that makes MAML compute inner loops with the given engine, in this thread.

    Args:
        name: ``"native"`` runs the whole inner loop in one native call, ``"batched"`` runs all tasks at once in PyTorch
            operations, and ``"loop"`` runs the model as it is written, one task after another.

    Raises:
        ValueError: there is no such engine.
        RuntimeError: raised by a call inside the context that the engine can't compute; the message says why.
    """
    choice(*ENGINES)("engine", name)
    token = requested_engine.set(name)
    try:
        yield
    finally:
        requested_engine.reset(token)


class ChosenEngine(NamedTuple):
    """The engine that computes a problem.

    Attributes:
        name: one of :data:`ENGINES`.
        why_not_native: why it is not the native engine; empty if it is.
        tasks_at_once: tasks in memory at once; ``None`` means all.
    """

    name: str
    why_not_native: str
    tasks_at_once: int | None

    def describe(self) -> list[str]:
        """Return one line about the engine and one about memory."""
        n = self.tasks_at_once
        held = "all tasks" if n is None else f"{n} task{'s' if n > 1 else ''} at a time"
        if self.name == "native":
            shared = n == 1 and torch.get_num_threads() > 1
            where = "all threads on one task" if shared else "each task in one core's cache"
            return [f"inner loop: native, {where}", f"in memory: {held}"]
        return [f"inner loop: operation by operation ({self.why_not_native})", f"in memory: {held}"]


def choose(
    problem: InnerProblem, episodes: Episodes, chunk: TaskChunk, why_not_native: str | None = None
) -> tuple[NativeLoop | None, ChosenEngine]:
    """Return the first engine that can run a problem, and the problem's native form if it is the native engine."""
    requested = requested_engine.get()
    n_tasks = episodes.meta_batch_size
    form: NativeLoop | str
    if requested in ("batched", "loop"):
        form = f"use_engine({requested!r})"
    else:
        form = why_not_native or _native_form(problem, episodes, chunk)
    if not isinstance(form, str):
        problem.forward.record_run(problem.recorded[-1])  # type: ignore[arg-type]
        return form, ChosenEngine("native", "", form.tasks_at_once if form.tasks_at_once < n_tasks else None)
    if requested == "native" and why_not_native is None:
        raise RuntimeError(f"the native engine can't run this: {form}")
    number = None if torch._C._are_functorch_transforms_active() else tasks_at_once(problem, chunk)
    return None, ChosenEngine("batched" if problem.is_batched else "loop", form, _even_chunk(number, n_tasks))


def _native_form(problem: InnerProblem, episodes: Episodes, chunk: TaskChunk) -> NativeLoop | str:
    """Return the problem's native form, or the reason why it has none."""
    with_rows = problem.with_rows()
    return with_rows if isinstance(with_rows, str) else native_loop(with_rows, episodes, chunk)


def _even_chunk(number: int | None, n_tasks: int) -> int | None:
    """Reduce ``number`` so that all chunks have about the same size; ``None`` if one chunk holds all tasks."""
    return math.ceil(n_tasks / math.ceil(n_tasks / number)) if number is not None and number < n_tasks else None

"""Chunks of tasks, one after another: the peak of memory is a chunk's, the results are those of all tasks at once."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_multithreading_enabled

from maml_fast.data.episodes import Episodes
from maml_fast.maml.chunked_gradient import ChunkedGradient, OutsideGraphError, hand_out
from maml_fast.maml.inner_loop import InnerLoop, Outcome
from maml_fast.maml.results import TaskResults

__all__ = ["TaskChunk", "TaskChunks", "check_task_chunk", "tasks_at_once", "tasks_in_memory"]

TaskChunk: TypeAlias = int | str | None  # tasks that are held in memory together; "auto"; None for all

TASKS_PER_THREAD = 2  # of an "auto" chunk: about the memory that a loop over single tasks takes


def check_task_chunk(chunk: Any) -> TaskChunk:
    """Return ``chunk`` if it is a whole number from 1 on, "auto" or None."""
    if chunk is None or chunk == "auto" or (isinstance(chunk, int) and not isinstance(chunk, bool) and chunk >= 1):
        return chunk
    raise ValueError(f"task_chunk must be a whole number of at least 1, 'auto', or None for all at once, got {chunk!r}")


def tasks_at_once(chunk: TaskChunk, device: torch.device) -> int | None:
    """The number of tasks that a chunk has in this thread now; ``None`` for all.

    On an accelerator "auto" is all: fewer would leave it idle.
    """
    chunk = check_task_chunk(chunk)
    if not isinstance(chunk, str):
        return chunk
    return TASKS_PER_THREAD * torch.get_num_threads() if device.type == "cpu" else None


def tasks_in_memory(together: bool, chunk: TaskChunk, device: torch.device) -> int | None:
    """:func:`tasks_at_once`, or one where tasks run one after another anyway."""
    return 1 if chunk == "auto" and not together else tasks_at_once(chunk, device)


class TaskChunks:
    """Runs an inner loop for chunk after chunk of checked episodes, and puts the results together.

    Where the loss depends on a graph that lies outside of the chunks, all tasks go at once from then on, after one
    warning that names the reason.
    """

    def __init__(self) -> None:
        self._obstacle: str | None = None

    def results(self, loop: InnerLoop, episodes: Episodes, scored: Collection[int], chunk: TaskChunk) -> TaskResults:
        """The results of ``loop.run(episodes, scored)``."""
        return self._run(loop, episodes, scored, chunk).results

    def loss(
        self, loop: InnerLoop, episodes: Episodes, scored: Collection[int], chunk: TaskChunk
    ) -> tuple[TaskResults, Tensor]:
        """The results without a graph, and the tasks' mean objective, which carries the gradient."""
        several = _number(loop, episodes, chunk) < episodes.meta_batch_size
        transformed = torch._C._are_functorch_transforms_active()  # their tensors have no leaves to stop at
        if several and torch.is_grad_enabled() and not transformed and self._obstacle is None:
            try:
                return _loss_in_chunks(loop, episodes, scored, chunk)
            except OutsideGraphError as error:
                self._obstacle = str(error)
            what = f"task_chunk={chunk!r} is not in effect, all tasks are held in memory at once"
            warnings.warn(f"{what}: {self._obstacle}", stacklevel=8)
        outcome = self._run(loop, episodes, scored, None if torch.is_grad_enabled() else chunk)
        return outcome.results.detached(), outcome.objectives.mean()

    def _run(self, loop: InnerLoop, episodes: Episodes, scored: Collection[int], chunk: TaskChunk) -> Outcome:
        parts = [loop.run(_only(tasks, episodes), scored) for tasks in _slices(loop, episodes, chunk)]
        return _joined(parts)

    def describe(self, number: int | None) -> str:
        """How many tasks are held in memory at once, and why; ``None`` is all."""
        if self._obstacle is not None:
            return f"all tasks ({self._obstacle})"
        return "all tasks" if number is None else f"{number} task{'s' if number > 1 else ''} at a time"


def _loss_in_chunks(
    loop: InnerLoop, episodes: Episodes, scored: Collection[int], chunk: TaskChunk
) -> tuple[TaskResults, Tensor]:
    """The same, chunk by chunk: the loss's backward pass hands out the gradient of all of them."""
    gradient = ChunkedGradient(episodes.meta_batch_size)
    inside = replace(loop, theta=loop.theta.map(gradient.stand_in))
    episodes = Episodes(*map(gradient.stand_in, episodes))
    parts = []
    with set_multithreading_enabled(False):  # so that all nodes are numbered by this thread
        for tasks in _slices(loop, episodes, chunk):
            gradient.begin_chunk()
            outcome = inside.run(_only(tasks, episodes), scored)
            gradient.add(outcome.objectives)
            parts.append(Outcome(outcome.results.detached(), outcome.objectives.detach()))
            del outcome  # and with it what is left of the graph
    whole = _joined(parts)
    return whole.results, hand_out(whole.objectives.mean(), gradient.gradients)


def _joined(parts: Sequence[Outcome]) -> Outcome:
    results = TaskResults.joined([part.results for part in parts])
    return Outcome(results, torch.cat([part.objectives for part in parts]))


def _slices(loop: InnerLoop, episodes: Episodes, chunk: TaskChunk) -> Iterator[slice]:
    number = _number(loop, episodes, chunk)
    return (slice(start, start + number) for start in range(0, episodes.meta_batch_size, number))


def _number(loop: InnerLoop, episodes: Episodes, chunk: TaskChunk) -> int:
    return tasks_in_memory(loop.together, chunk, loop.theta.device) or episodes.meta_batch_size


def _only(tasks: slice, episodes: Episodes) -> Episodes:
    return Episodes(*(tensor[tasks] for tensor in episodes))

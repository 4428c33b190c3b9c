"""The engines ``batched`` and ``loop``: inner loops in PyTorch operations, for all tasks at once or one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_multithreading_enabled

from maml_fast import ops
from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._problem import InnerProblem, step_of_queries
from maml_fast.inner_loop._values import FastWeights, TaskResults, values_at_step
from maml_fast.inner_loop._walk import AllTasks, OneTask, QueryScores, Walk, per_step_parameters

__all__ = [
    "Outcome",
    "adapt",
    "chunks_of",
    "outcome_of",
    "run",
    "scored_walk",
    "single_threaded_autograd",
    "usable_by_autograd",
]


class Outcome(NamedTuple):
    """Query results, and every task's objective [T] with its graph."""

    results: TaskResults
    objectives: Tensor


def adapt(problem: InnerProblem, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
    """Return every task's adapted parameters, and the last step's values of the per-step parameters, by name."""
    with _outside_inference_mode(), single_threaded_autograd():
        x_spt, y_spt = usable_by_autograd(x_spt), usable_by_autograd(y_spt)
        if problem.is_batched:
            fast = _adapted(AllTasks(problem, x_spt, y_spt), x_spt, y_spt)
        else:
            each = [_adapted(OneTask(problem, *task), *task) for task in zip(x_spt, y_spt, strict=True)]
            fast = {name: torch.stack([weights[name] for weights in each]) for name in each[0]}
    last = values_at_step(per_step_parameters(problem.theta), step_of_queries(problem.steps))
    return {**fast, **{name: ops.over_tasks(value, len(x_spt)) for name, value in last.items()}}


def run(problem: InnerProblem, episodes: Episodes, scored: Collection[int], number: int | None = None) -> Outcome:
    """Return every task's query results after the ``scored`` steps, which include the last, and its objective.

    The batched engine takes ``number`` tasks at once; ``None`` means all.
    """
    with _outside_inference_mode(), single_threaded_autograd():
        episodes = Episodes(*map(usable_by_autograd, episodes))
        chunks = chunks_of(problem, episodes, number)
        return outcome_of([scored_walk(make_walk(), chunk, scored) for make_walk, chunk in chunks])


def chunks_of(
    problem: InnerProblem, episodes: Episodes, number: int | None
) -> Iterator[tuple[Callable[[], Walk], Sequence[Tensor]]]:
    """Yield, for every chunk of ``number`` tasks or for every single task, a factory of its walk and its episodes."""
    if not problem.is_batched:
        yield from ((partial(OneTask, problem, *task[:2]), task) for task in zip(*episodes, strict=True))
        return
    number = number or episodes.meta_batch_size
    for start in range(0, episodes.meta_batch_size, number):
        chunk = [tensor[start : start + number] for tensor in episodes]
        yield partial(AllTasks, problem, *chunk[:2]), chunk


def scored_walk(walk: Walk, episodes: Sequence[Tensor], scored: Collection[int]) -> QueryScores:
    """Take all inner steps and return the query scores."""
    scores = QueryScores(walk.problem, episodes, scored)
    walk.take_steps(0, walk.problem.steps, scores)
    scores.add(walk, walk.problem.steps)
    return scores


def outcome_of(scores: Sequence[QueryScores]) -> Outcome:
    """Return the outcome of all tasks from the scores of their chunks."""
    losses = [_concatenate(chunks) for chunks in zip(*(chunk.losses for chunk in scores), strict=True)]
    objectives = _concatenate([chunk.objective for chunk in scores])
    counts = list(zip(*(chunk.counts for chunk in scores), strict=True))  # [S][chunks]
    if any(count is None for chunks in counts for count in chunks):
        return Outcome(TaskResults(torch.stack(losses)), objectives)
    correct = [_concatenate([count and count.correct for count in chunks]) for chunks in counts]
    predictions = _concatenate([count and count.predictions for count in counts[-1]])
    return Outcome(TaskResults(torch.stack(losses), torch.stack(correct), predictions), objectives)


def _concatenate(parts: Sequence[Tensor | None]) -> Tensor:
    """Return values [T] from those of chunks [t] or of single tasks []."""
    present = [part for part in parts if part is not None]
    if present[0].dim() == 0:
        return torch.stack(present)
    return present[0] if len(present) == 1 else torch.cat(present)


def _adapted(walk: Walk, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
    for _ in range(walk.problem.steps):
        walk.step(x_spt, y_spt)
    return walk.weights()


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Replace ``torch.inference_mode`` by ``torch.no_grad``: no gradient can be computed in inference mode."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def single_threaded_autograd() -> AbstractContextManager[None]:
    """Return a context in which this thread creates, and thereby numbers, all nodes of the autograd graph.

    On a GPU, the nodes of double backward would otherwise be created by another thread. Node numbers decide the order
    in which the meta-gradient is summed, and so its last bits.
    """
    return set_multithreading_enabled(False)


def usable_by_autograd(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if it was created in inference mode: autograd can't save such tensors."""
    return tensor.clone() if tensor.is_inference() else tensor

"""The engines ``batched`` and ``loop``: inner loops of PyTorch's operations, of all tasks together or one by one."""

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
from maml_fast.maml._problem import InnerProblem, step_of_queries
from maml_fast.maml._values import FastWeights, TaskResults, at_step
from maml_fast.maml._walk import AllTasks, OneTask, Scores, Walk, of_steps

__all__ = ["Outcome", "adapt", "numbered_here", "outcome_of", "parts_of", "run", "scored_walk", "usable_by_autograd"]


class Outcome(NamedTuple):
    """Query results, and every task's objective [T], which carries the graph."""

    results: TaskResults
    objectives: Tensor


def adapt(problem: InnerProblem, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
    """Every task's own parameters: the adapted ones, and those of the last step where each has its own."""
    with _outside_inference_mode(), numbered_here():
        x_spt, y_spt = usable_by_autograd(x_spt), usable_by_autograd(y_spt)
        if problem.together:
            fast = _adapted(AllTasks(problem, x_spt, y_spt), x_spt, y_spt)
        else:
            each = [_adapted(OneTask(problem, *task), *task) for task in zip(x_spt, y_spt, strict=True)]
            fast = {name: torch.stack([of_task[name] for of_task in each]) for name in each[0]}
    last = at_step(of_steps(problem.theta), step_of_queries(problem.steps))
    return {**fast, **{name: ops.over_tasks(value, len(x_spt)) for name, value in last.items()}}


def run(problem: InnerProblem, episodes: Episodes, scored: Collection[int], number: int | None = None) -> Outcome:
    """Every task's query results after the ``scored`` steps, the last among them, and its objective.

    So many tasks go together, where tasks do.
    """
    with _outside_inference_mode(), numbered_here():
        episodes = Episodes(*map(usable_by_autograd, episodes))
        parts = parts_of(problem, episodes, number)
        return outcome_of([scored_walk(begin(), part, scored) for begin, part in parts])


def parts_of(
    problem: InnerProblem, episodes: Episodes, number: int | None
) -> Iterator[tuple[Callable[[], Walk], Sequence[Tensor]]]:
    """What begins the walks of so many tasks together, or of one alone, with their episodes."""
    if not problem.together:
        yield from ((partial(OneTask, problem, *task[:2]), task) for task in zip(*episodes, strict=True))
        return
    number = number or episodes.meta_batch_size
    for start in range(0, episodes.meta_batch_size, number):
        part = [tensor[start : start + number] for tensor in episodes]
        yield partial(AllTasks, problem, *part[:2]), part


def scored_walk(walk: Walk, episodes: Sequence[Tensor], scored: Collection[int]) -> Scores:
    """What the queries say on a walk through all steps."""
    scores = Scores(walk.problem, episodes, scored)
    walk.take_steps(0, walk.problem.steps, scores)
    scores.add(walk, walk.problem.steps)
    return scores


def outcome_of(scores: Sequence[Scores]) -> Outcome:
    """That of all tasks, from their parts'."""
    losses = [_joined(of_step) for of_step in zip(*(part.losses for part in scores), strict=True)]
    objectives = _joined([part.objective for part in scores])
    counts = list(zip(*(part.counts for part in scores), strict=True))
    if any(count is None for of_step in counts for count in of_step):
        return Outcome(TaskResults(torch.stack(losses)), objectives)
    right = [_joined([count and count.right for count in of_step]) for of_step in counts]
    predictions = _joined([count and count.predictions for count in counts[-1]])
    return Outcome(TaskResults(torch.stack(losses), torch.stack(right), predictions), objectives)


def _joined(parts: Sequence[Tensor | None]) -> Tensor:
    """[T], from parts [t] or single tasks []."""
    present = [part for part in parts if part is not None]
    if present[0].dim() == 0:
        return torch.stack(present)
    return present[0] if len(present) == 1 else torch.cat(present)


def _adapted(walk: Walk, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
    for _ in range(walk.problem.steps):
        walk.step(x_spt, y_spt)
    return walk.fast


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Inside ``torch.inference_mode`` no gradient can be taken at all: run as under ``torch.no_grad`` there."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def numbered_here() -> AbstractContextManager[None]:
    """A context, in which this thread numbers all nodes of autograd's graph.

    On a GPU another thread would number those that gradients of gradients make. Their numbers decide in which order the
    meta-gradient is summed, and so on its last bits.
    """
    return set_multithreading_enabled(False)


def usable_by_autograd(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which autograd refuses to save."""
    return tensor.clone() if tensor.is_inference() else tensor

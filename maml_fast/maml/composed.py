"""The engines ``batched`` and ``loop``: inner loops of PyTorch's operations, of all tasks together or one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from maml_fast import ops
from maml_fast.data.episodes import Episodes
from maml_fast.maml.problem import InnerProblem, step_of_queries
from maml_fast.maml.values import FastWeights, TaskResults, at_step
from maml_fast.maml.walk import AllTasks, OneTask, Scores, Walk, of_steps, stack, stacked

__all__ = ["Outcome", "adapt", "outcome_of", "run", "usable_by_autograd"]


class Outcome(NamedTuple):
    """Query results, and every task's objective [T], which carries the graph."""

    results: TaskResults
    objectives: Tensor


def adapt(problem: InnerProblem, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
    """Every task's own parameters: the adapted ones, and those of the last step where each has its own."""
    with _outside_inference_mode():
        x_spt, y_spt = usable_by_autograd(x_spt), usable_by_autograd(y_spt)
        if problem.together:
            fast = _adapted(AllTasks(problem, len(x_spt)), x_spt, y_spt)
        else:
            each = [_adapted(OneTask(problem), *task) for task in zip(x_spt, y_spt, strict=True)]
            fast = {name: torch.stack([of_task[name] for of_task in each]) for name in each[0]}
    last = at_step(of_steps(problem.theta), step_of_queries(problem.steps))
    return {**fast, **{name: ops.over_tasks(value, len(x_spt)) for name, value in last.items()}}


def run(problem: InnerProblem, episodes: Episodes, scored: Collection[int]) -> Outcome:
    """Every task's query results after the ``scored`` steps, the last among them, and its objective."""
    with _outside_inference_mode():
        episodes = Episodes(*map(usable_by_autograd, episodes))
        if problem.together:
            return outcome_of([_scored(AllTasks(problem, len(episodes.x_spt)), episodes, scored)], episodes)
        tasks = zip(*episodes, strict=True)
        return outcome_of([_scored(OneTask(problem), task, scored) for task in tasks], episodes)


def outcome_of(scores: Sequence[Scores], episodes: Episodes) -> Outcome:
    """Of all tasks together, [T], or of each by itself."""
    predictions = episodes.y_qry[0].numel()
    objectives = [of_task.objective for of_task in scores if of_task.objective is not None]
    if objectives[0].dim() == 1:
        return Outcome(TaskResults(scores[0].losses, scores[0].correct, predictions), objectives[0])
    losses = stack([of_task.losses for of_task in scores], dim=-1)
    correct = stacked([of_task.correct for of_task in scores], dim=-1)
    return Outcome(TaskResults(losses, correct, predictions), stack(objectives))


def _adapted(walk: Walk, x_spt: Tensor, y_spt: Tensor) -> FastWeights:
    for _ in range(walk.problem.steps):
        walk.step(x_spt, y_spt)
    return walk.fast


def _scored(walk: Walk, episodes: Sequence[Tensor], scored: Collection[int]) -> Scores:
    scores = Scores(walk.problem, episodes, scored)
    walk.take_steps(0, walk.problem.steps, scores)
    scores.add(walk, walk.problem.steps)
    return scores


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Inside ``torch.inference_mode`` no gradient can be taken at all: run as under ``torch.no_grad`` there."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def usable_by_autograd(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which autograd refuses to save."""
    return tensor.clone() if tensor.is_inference() else tensor

"""Tasks in chunks, one after another: each chunk's gradient is taken and its graph freed before the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from maml_fast._arguments import MOST, Kind, bound, shown, whole
from maml_fast.data._episodes import Episodes
from maml_fast.maml._composed import numbered_here, outcome_of, parts_of, scored_walk, usable_by_autograd
from maml_fast.maml._gradient import ChunkedGradient
from maml_fast.maml._problem import InnerProblem
from maml_fast.maml._segments import score_in_segments
from maml_fast.maml._values import TaskResults

__all__ = [
    "INNER_MEMORY",
    "TASK_CHUNK",
    "InnerMemory",
    "TaskChunk",
    "steps_kept",
    "tasks_at_once",
    "with_gradient",
]

TaskChunk: TypeAlias = int | str | None  # tasks that are held in memory together; "auto"; None for all
InnerMemory: TypeAlias = int | str | None  # inner steps whose graphs are; "auto"; None for all

BUDGET = 96 * 2**20  # bytes of an "auto" chunk on a CPU, as far as one task's are not more
BUDGET_OF_STEPS = 64 * 2**20  # of the graphs of one task's steps
LEAST_STEPS = 5  # are kept whatever they take: so many are usual, and taking them again would cost a sixth more time
GRAPH = 3  # an inner step's graph, as a multiple of what its forward pass computes, at second order


def _some_or_all(things: str) -> Kind:
    """The kind of what is a number of things, "auto" or None."""

    def kind(name: str, value: Any) -> int | str | None:
        if value is None or (isinstance(value, str) and value == "auto"):
            return value
        try:
            return whole(1)(name, value)
        except (TypeError, ValueError):
            wanted = f"a whole number of {things} from 1 to {bound(MOST)}, 'auto', or None for all"
            raise ValueError(f"{name} must be {wanted}; got {shown(value)}") from None

    return kind


TASK_CHUNK, INNER_MEMORY = _some_or_all("tasks"), _some_or_all("steps")


def steps_kept(problem: InnerProblem, memory: InnerMemory) -> int | None:
    """The number of inner steps whose graphs are held; ``None`` for all.

    "auto" is what fits in the budget, and five at least. The steps of a model that can't be recorded have no
    known size: all are kept.
    """
    if not isinstance(memory, str):
        return memory
    last = problem.forward.last
    assert last is not None
    program = last.recorded if isinstance(problem.programs, str) else problem.programs[0]
    if program is None or problem.theta.device.type != "cpu":
        return None
    return max(LEAST_STEPS, BUDGET_OF_STEPS // max(1, GRAPH * program.bytes_computed))


def tasks_at_once(problem: InnerProblem, chunk: TaskChunk) -> int | None:
    """The number of tasks that a chunk has; ``None`` for all.

    It is one where tasks run one after another anyway. "auto" is else as many as fit in the budget, and on an
    accelerator all: fewer would leave it idle.
    """
    if isinstance(problem.programs, str):
        return 1
    if not isinstance(chunk, str):
        return chunk
    if problem.theta.device.type != "cpu":
        return None
    support, *_, queries = (program.bytes_computed for program in problem.programs)
    graphs = GRAPH * min(problem.steps, problem.steps_kept or problem.steps) if problem.order == 2 else 1
    weights = sum(weight.numel() * weight.element_size() for weight in problem.theta.adapted.values())
    return max(1, BUDGET // max(1, graphs * support + queries + (4 + graphs) * weights))


def with_gradient(
    problem: InnerProblem, episodes: Episodes, scored: Collection[int], number: int | None
) -> tuple[TaskResults, Tensor, Mapping[Tensor, Tensor]]:
    """The results without a graph, the tasks' mean objective, and its gradients by the tensors that they are of.

    Raises:
        OutsideGraphError: a loss depends on a graph from outside.
    """
    gradient = ChunkedGradient(episodes.meta_batch_size, problem.is_closed)
    inside = problem.at(gradient.stand_in)
    episodes = Episodes(*(gradient.stand_in(usable_by_autograd(x)) for x in episodes))
    scores = []
    with numbered_here():
        for begin, part in parts_of(inside, episodes, number):
            if inside.has_segments:
                scores.append(score_in_segments(inside, begin, part, scored, gradient))
            else:
                gradient.begin_chunk()
                scores.append(scored_walk(begin(), part, scored))
                gradient.add(scores[-1].objective)
                scores[-1].detached()  # and lets go of what is left of the graph
    outcome = outcome_of(scores)
    return outcome.results, outcome.objectives.mean(), gradient.gradients

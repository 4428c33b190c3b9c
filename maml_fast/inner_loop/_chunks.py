"""Chunks of tasks: each chunk's gradient is computed and its graph freed before the next chunk begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from maml_fast._arguments import MAX_COUNT, Kind, bound, int_from, shown
from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._composed import (
    chunks_of,
    outcome_of,
    scored_walk,
    single_threaded_autograd,
    usable_by_autograd,
)
from maml_fast.inner_loop._gradient import ChunkedGradient
from maml_fast.inner_loop._problem import InnerProblem
from maml_fast.inner_loop._segments import score_in_segments
from maml_fast.inner_loop._values import TaskResults

__all__ = [
    "INNER_MEMORY",
    "TASK_CHUNK",
    "InnerMemory",
    "TaskChunk",
    "steps_kept",
    "tasks_at_once",
    "with_gradient",
]

TaskChunk: TypeAlias = int | str | None  # tasks in memory at once; "auto"; None: all
InnerMemory: TypeAlias = int | str | None  # inner steps whose graphs are in memory at once; "auto"; None: all

BUDGET = 96 * 2**20  # bytes of an "auto" chunk on a CPU; a chunk has at least one task
STEP_BUDGET = 64 * 2**20  # bytes of the graphs of one task's inner steps
MIN_STEPS_KEPT = 5  # whatever their size: a usual number of steps, and recomputing them would take a sixth more time
GRAPH_FACTOR = 3  # size of an inner step's graph at second order, as a multiple of its forward pass


def _some_or_all(things: str) -> Kind:
    """Return the kind that accepts a positive number of ``things``, "auto" or None."""

    def kind(name: str, value: Any) -> int | str | None:
        if value is None or (isinstance(value, str) and value == "auto"):
            return value
        try:
            return int_from(1)(name, value)
        except (TypeError, ValueError):
            wanted = f"a whole number of {things} from 1 to {bound(MAX_COUNT)}, 'auto', or None for all"
            raise ValueError(f"{name} must be {wanted}; got {shown(value)}") from None

    return kind


TASK_CHUNK, INNER_MEMORY = _some_or_all("tasks"), _some_or_all("steps")


def steps_kept(problem: InnerProblem, memory: InnerMemory) -> int | None:
    """Return the number of inner steps whose graphs are kept in memory; ``None`` means all.

    "auto" is as many as fit in the budget, at least five. All are kept if the model can't be recorded, because the
    size of a step is then unknown, and on an accelerator.
    """
    if not isinstance(memory, str):
        return memory
    last = problem.forward.last
    assert last is not None
    program = last.recorded if isinstance(problem.programs, str) else problem.programs[0]
    if program is None or problem.theta.device.type != "cpu":
        return None
    return max(MIN_STEPS_KEPT, STEP_BUDGET // max(1, GRAPH_FACTOR * program.bytes_computed))


def tasks_at_once(problem: InnerProblem, chunk: TaskChunk) -> int | None:
    """Return the number of tasks in a chunk; ``None`` means all.

    It is one if tasks run one after another anyway. Otherwise "auto" is as many as fit in the budget, and all on an
    accelerator, which fewer would leave idle.
    """
    if isinstance(problem.programs, str):
        return 1
    if not isinstance(chunk, str):
        return chunk
    if problem.theta.device.type != "cpu":
        return None
    support, *_, queries = (program.bytes_computed for program in problem.programs)
    graphs = GRAPH_FACTOR * min(problem.steps, problem.steps_kept or problem.steps) if problem.order == 2 else 1
    weights = sum(weight.numel() * weight.element_size() for weight in problem.theta.adapted.values())
    return max(1, BUDGET // max(1, graphs * support + queries + (4 + graphs) * weights))


def with_gradient(
    problem: InnerProblem, episodes: Episodes, scored: Collection[int], number: int | None
) -> tuple[TaskResults, Tensor, Mapping[Tensor, Tensor]]:
    """Return the results without a graph, the tasks' mean objective, and its gradient by source tensor.

    Raises:
        OutsideGraphError: a loss depends on a graph that was built outside.
    """
    gradient = ChunkedGradient(episodes.meta_batch_size, problem.is_closed)
    inside = problem.with_theta(gradient.stand_in)
    episodes = Episodes(*(gradient.stand_in(usable_by_autograd(x)) for x in episodes))
    scores = []
    with single_threaded_autograd():
        for make_walk, chunk in chunks_of(inside, episodes, number):
            if inside.has_segments:
                scores.append(score_in_segments(inside, make_walk, chunk, scored, gradient))
            else:
                gradient.begin_chunk()
                scores.append(scored_walk(make_walk(), chunk, scored))
                gradient.add(scores[-1].objective)
                scores[-1].detached()  # frees the rest of the graph
    outcome = outcome_of(scores)
    return outcome.results, outcome.objectives.mean(), gradient.gradients

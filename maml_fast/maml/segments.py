"""The meta-gradient backwards over the inner steps, with the graphs of a few of them in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from maml_fast.data.episodes import Episodes
from maml_fast.maml.composed import Outcome, outcome_of, usable_by_autograd
from maml_fast.maml.gradient import ChunkedGradient
from maml_fast.maml.problem import InnerProblem
from maml_fast.maml.state import get_randomness, set_randomness
from maml_fast.maml.walk import AllTasks, OneTask, Scores, Walk

__all__ = ["run_in_segments"]


def run_in_segments(
    problem: InnerProblem, episodes: Episodes, scored: Collection[int], gradient: ChunkedGradient
) -> Outcome:
    """What :func:`run` gives, without a graph: the gradient of the objectives is added here.

    The graphs of ``problem.steps_kept`` steps are in memory at once.

    With v = dL/dw after some steps, dL/dw before them is their vector-Jacobian product with v (for one step of gradient
    descent v - H (rate v), Finn et al. 2017, section 5.2). So weights are kept at the beginning of every segment of
    steps, which are taken again, with their graph, on the way back.
    """
    episodes = Episodes(*map(usable_by_autograd, episodes))
    if problem.together:
        n_tasks = len(episodes.x_spt)
        scores = [_scored_in_segments(lambda: AllTasks(problem, n_tasks), episodes, scored, gradient)]
    else:
        scores = [
            _scored_in_segments(lambda: OneTask(problem), task, scored, gradient)
            for task in zip(*episodes, strict=True)
        ]
    outcome = outcome_of(scores, episodes)
    return Outcome(outcome.results.detached(), outcome.objectives.detach())


def _scored_in_segments(
    make: Callable[[], Walk], episodes: Sequence[Tensor], scored: Collection[int], gradient: ChunkedGradient
) -> Scores:
    walk = make()
    problem, length = walk.problem, walk.problem.steps_kept
    assert length is not None
    begins = range(0, problem.steps, length)
    before, states = Scores(problem, episodes, scored), [walk.state()]
    with torch.no_grad():
        for begin in begins[:-1]:
            walk.take_steps(begin, begin + length, before)
            states.append(walk.state())
    randomness = states[-1].randomness
    found: Scores | None = None
    after: list[Tensor] = []  # the gradients at the walk's tensors after a segment
    expected: list[Tensor] = []  # what these tensors were the first time
    for begin, state in zip(reversed(begins), reversed(states), strict=True):
        end = min(begin + length, problem.steps)
        gradient.begin_chunk()
        walk = make()
        at_begin = walk.go_back_to(state) if begin else []
        set_randomness(state.randomness)
        # Queries are scored again too: what they draw, and what a model keeps of them, is part of what comes next.
        scores = Scores(problem, episodes, scored)
        walk.take_steps(begin, end, scores)
        if found is None:
            scores.add(walk, end)
            randomness = get_randomness(problem.theta.device)
        ends = walk.tensors() if after else []
        _check_same(ends, expected)
        after = gradient.add(scores.objective, list(zip(ends, after, strict=True)), at_begin)
        expected = [tensor.detach() for tensor in at_begin]
        found = found or scores.detached()
        del walk, at_begin, scores, ends  # and with them what is left of the graph
    set_randomness(randomness)
    assert found is not None
    found.follow(before)
    return found


def _check_same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Raise unless steps that were taken again led where they had led before."""
    for a, b in zip(found, wanted, strict=True):
        if a.numel() and not (a.detach() - b).norm() <= 1e-3 * b.norm() + 1e-6:
            raise RuntimeError(
                "the model, or loss_fn, computed something else when steps were taken again to save memory; "
                "inner_memory=None keeps the graphs of all steps"
            )

"""The meta-gradient backwards over the inner steps, with the graphs of a few of them in memory at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from maml_fast.maml._gradient import ChunkedGradient
from maml_fast.maml._problem import InnerProblem
from maml_fast.maml._state import State, get_randomness, set_randomness
from maml_fast.maml._walk import Scores, Walk

__all__ = ["score_in_segments"]

# Of a way whose graph is too large. The weights at their beginnings are what many inner steps take in memory: fewer
# parts take less, and more time.
MOST_PARTS = 5


def score_in_segments(
    problem: InnerProblem,
    begin: Callable[[], Walk],
    episodes: Sequence[Tensor],
    scored: Collection[int],
    gradient: ChunkedGradient,
) -> Scores:
    """What the queries say on a walk through all steps, without a graph: the objective's gradient is added here.

    The graphs of ``problem.steps_kept`` steps are in memory at once.
    """
    return _Segments(problem, begin, episodes, scored, gradient).run()


class _Segments:
    """A walk through all steps, and the way back over them, segment by segment.

    With v = dL/dw after some steps, dL/dw before them is their vector-Jacobian product with v (for one step of gradient
    descent v - H (rate v), Finn et al. 2017, section 5.2). A way that is longer than a segment is divided into parts.
    The weights that each starts from are kept, and the parts before the last are walked again on the way back
    (checkpointing: Griewank & Walther 2000).
    """

    def __init__(
        self,
        problem: InnerProblem,
        make_walk: Callable[[], Walk],
        episodes: Sequence[Tensor],
        scored: Collection[int],
        gradient: ChunkedGradient,
    ) -> None:
        assert problem.steps_kept is not None
        self._problem, self._kept = problem, problem.steps_kept
        self._make_walk, self._gradient = make_walk, gradient
        self._make_scores = lambda: Scores(problem, episodes, scored)
        self._before, self._last = self._make_scores(), self._make_scores()  # than the last segment, and of it
        self._after: list[Tensor] = []  # the gradients at the walk's tensors after a segment
        self._expected: list[Tensor] = []  # what these tensors were the first time
        self._randomness: list[Tensor] = []  # after the last step
        self._first_randomness = get_randomness(problem.theta.device)  # before the walk begins

    def run(self) -> Scores:
        """Add the gradient; return what was scored, without a graph."""
        self._walk_and_return(0, self._problem.steps, self._make_walk().state())
        set_randomness(self._randomness)
        self._last.follow(self._before)
        return self._last

    def _walk_and_return(self, begin: int, end: int, state: State) -> None:
        if end - begin <= self._kept:
            self._segment(begin, end, state)
            return
        length = self._kept * math.ceil(math.ceil((end - begin) / self._kept) / MOST_PARTS)
        begins = range(begin, end, length)
        states = [state]
        walk, _ = self._walk_from(begin, state)
        scores = self._before if end == self._problem.steps else self._make_scores()
        with torch.no_grad():
            for part in begins[:-1]:
                walk.take_steps(part, part + length, scores)
                states.append(walk.state())
        del walk, scores
        for part in reversed(begins):
            self._walk_and_return(part, min(part + length, end), states.pop())

    def _segment(self, begin: int, end: int, state: State) -> None:
        self._gradient.begin_chunk()
        walk, at_begin = self._walk_from(begin, state)
        # Queries are scored again too: what they draw, and what a model keeps of them, is part of what comes next.
        is_last = end == self._problem.steps
        scores = self._last if is_last else self._make_scores()
        walk.take_steps(begin, end, scores)
        if is_last:
            scores.add(walk, end)
            self._randomness = get_randomness(self._problem.theta.device)
        ends = walk.tensors() if self._after else []
        _check_same(ends, self._expected)
        self._after = self._gradient.add(scores.objective, list(zip(ends, self._after, strict=True)), at_begin)
        self._expected = [tensor.detach() for tensor in at_begin]
        scores.detached()  # and lets go of what is left of the graph

    def _walk_from(self, begin: int, state: State) -> tuple[Walk, list[Tensor]]:
        """A walk that stands there, and the leaves that a graph from there begins with."""
        set_randomness(self._first_randomness)  # a walk may draw on its beginning
        walk = self._make_walk()
        at_begin = walk.go_back_to(state) if begin else []
        set_randomness(state.randomness)
        return walk, at_begin


def _check_same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Raise unless steps that were taken again led where they had led before."""
    for a, b in zip(found, wanted, strict=True):
        if a.numel() and not (a.detach() - b).norm() <= 1e-3 * b.norm() + 1e-6:
            raise RuntimeError(
                "the model, or loss_fn, computed something else when steps were taken again to save memory; "
                "inner_memory=None keeps the graphs of all steps"
            )

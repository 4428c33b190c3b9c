"""The meta-gradient by checkpointing: a backward pass that keeps the graphs of only a few inner steps in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from maml_fast.inner_loop._gradient import ChunkedGradient
from maml_fast.inner_loop._problem import InnerProblem
from maml_fast.inner_loop._state import State, get_randomness, set_randomness
from maml_fast.inner_loop._walk import QueryScores, Walk

__all__ = ["score_in_segments"]

# Maximum number of parts that a range of steps is divided into. The states at their beginnings dominate the memory of
# many inner steps: fewer parts take less memory and more time.
MOST_PARTS = 5


def score_in_segments(
    problem: InnerProblem,
    make_walk: Callable[[], Walk],
    episodes: Sequence[Tensor],
    scored: Collection[int],
    gradient: ChunkedGradient,
) -> QueryScores:
    """Take all inner steps, add the objective's gradient to ``gradient``, and return the scores without a graph.

    The graphs of at most ``problem.steps_kept`` steps are in memory at once.
    """
    return _Segments(problem, make_walk, episodes, scored, gradient).run()


class _Segments:
    """A forward pass through all inner steps and a backward pass, segment by segment.

    Given v = dL/dw after some steps, dL/dw before them is the vector-Jacobian product of these steps with v. For one
    step of gradient descent this is v - H (rate v), with a Hessian-vector product (Finn et al. 2017, section 5.2). A
    range of steps longer than a segment is divided into parts. The state at the beginning of each part is kept, and the
    parts before the last are computed again in the backward pass (checkpointing: Griewank & Walther 2000).
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
        self._make_scores = lambda: QueryScores(problem, episodes, scored)
        self._earlier_scores = self._make_scores()  # of all segments before the last
        self._last_scores = self._make_scores()  # of the last segment
        self._end_gradients: list[Tensor] = []  # with respect to the tensors at the end of the next segment
        self._expected_ends: list[Tensor] = []  # values of these tensors when they were first computed
        self._final_randomness: list[Tensor] = []  # after the last step
        self._initial_randomness = get_randomness(problem.theta.device)  # before the walk begins

    def run(self) -> QueryScores:
        self._backward_through(0, self._problem.steps, self._make_walk().state())
        set_randomness(self._final_randomness)
        self._last_scores.prepend(self._earlier_scores)
        return self._last_scores

    def _backward_through(self, begin: int, end: int, state: State) -> None:
        if end - begin <= self._kept:
            self._backward_segment(begin, end, state)
            return
        length = self._kept * math.ceil(math.ceil((end - begin) / self._kept) / MOST_PARTS)
        begins = range(begin, end, length)
        states = [state]
        walk, _ = self._walk_from(begin, state)
        scores = self._earlier_scores if end == self._problem.steps else self._make_scores()
        with torch.no_grad():
            for part in begins[:-1]:
                walk.take_steps(part, part + length, scores)
                states.append(walk.state())
        del walk, scores
        for part in reversed(begins):
            self._backward_through(part, min(part + length, end), states.pop())

    def _backward_segment(self, begin: int, end: int, state: State) -> None:
        self._gradient.begin_chunk()
        walk, at_begin = self._walk_from(begin, state)
        # Queries are scored again too: random numbers that they draw and buffers that they update affect later steps.
        is_last = end == self._problem.steps
        scores = self._last_scores if is_last else self._make_scores()
        walk.take_steps(begin, end, scores)
        if is_last:
            scores.add(walk, end)
            self._final_randomness = get_randomness(self._problem.theta.device)
        ends = walk.tensors() if self._end_gradients else []
        _check_reproduced(ends, self._expected_ends)
        extra_roots = list(zip(ends, self._end_gradients, strict=True))
        self._end_gradients = self._gradient.add(scores.objective, extra_roots, at_begin)
        self._expected_ends = [tensor.detach() for tensor in at_begin]
        scores.detached()  # frees the rest of the graph

    def _walk_from(self, begin: int, state: State) -> tuple[Walk, list[Tensor]]:
        """Return a walk in the given state, and the leaves at which its graph begins."""
        set_randomness(self._initial_randomness)  # creating a walk may draw random numbers
        walk = self._make_walk()
        at_begin = walk.restore(state) if begin else []
        set_randomness(state.randomness)
        return walk, at_begin


def _check_reproduced(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Raise unless recomputed steps gave the same result as before."""
    for a, b in zip(found, wanted, strict=True):
        if a.numel() and not (a.detach() - b).norm() <= 1e-3 * b.norm() + 1e-6:
            raise RuntimeError(
                "the model, or loss_fn, computed something else when inner steps were recomputed to save memory; "
                "inner_memory=None keeps the graphs of all steps"
            )

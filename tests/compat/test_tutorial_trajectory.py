"""The drop-in from the tutorial's own initial values, as they are, for 50 iterations in float64.

The start is a hard one: the classifier's rows are equal, so that the gradients of many channels are rounding noise,
which Adam makes as large as any. On most data the original then parts from a copy of itself that starts 1e-15 beside
it. So it is held against such a copy at every iteration: while the two stay together ours must follow to 1e-6, and
where they part ours may be no farther off than a few times what the copy is.
"""

from __future__ import annotations

import oracles
import pytest
import torch
from tutorial_batches import make_batch

from maml_fast.compat import MetaLearner

pytestmark = pytest.mark.backendless

ITERATIONS = 50
BOUND, FACTOR = 1e-6, 10
BIASES_UNDER_BATCH_NORM = (1, 5, 9)  # they change nothing, and move by noise alone


def moves(parameters, start):
    """How far the parameters have come, as one vector."""
    kept = [i for i in range(len(start)) if i not in BIASES_UNDER_BATCH_NORM]
    return torch.cat([(list(parameters)[i].detach() - start[i]).flatten() for i in kept])


def beside(start):
    generator = torch.Generator().manual_seed(0)
    return [each + 1e-15 * torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in start]


def distances(seed):
    """Of ours from the tutorial, and of the copy's farthest so far; as shares of the way that the tutorial has come."""
    torch.manual_seed(seed)
    meta = MetaLearner().double()
    start = [parameter.detach().clone() for parameter in meta.net.parameters()]
    tutorial = oracles.Tutorial(start)
    copy = oracles.Tutorial(beside(start))
    generator = torch.Generator().manual_seed(seed + 1)
    farthest = 0.0
    for _ in range(ITERATIONS):
        batch = make_batch(1, 1, generator)
        meta(*batch)
        for each in (tutorial, copy):
            each.train(*batch)
        way = moves(tutorial.parameters, start)
        assert way.norm() > 1e-3
        ours, theirs = (
            float((moves(each, start) - way).norm() / way.norm()) for each in (meta.net.parameters(), copy.parameters)
        )
        farthest = max(farthest, theirs)
        yield ours, farthest


def test_where_the_tutorial_follows_itself_ours_follows_it():
    for ours, copy in distances(seed=7):
        assert ours < BOUND
        assert copy < BOUND / 10  # were it more, the seed would prove nothing


def test_where_the_tutorial_leaves_itself_ours_is_no_farther():
    for ours, copy in distances(seed=0):
        assert ours <= max(BOUND, FACTOR * copy)
        if copy > 1 / FACTOR:  # two that have nothing in common any more are about 1 apart
            return
    pytest.fail(f"the copy stayed within {copy}: the seed shows nothing")

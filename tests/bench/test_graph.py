"""maml_fast as a CUDA graph among the benchmarks' peers, played by the host: replays are what is compared and timed."""

from __future__ import annotations

import pytest
import torch
from contestant import Contestant
from graph_on_host import HostGraph
from parity import ParityError, check
from peers import GRAPHED, OURS
from place import Place
from workloads import QUICK

from maml_fast.inner_loop._graphed import WARM_UP, _GraphOfSize

Q1, Q2 = QUICK

pytestmark = [pytest.mark.usefixtures("graphs_on_host"), pytest.mark.backendless]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """No inner loop in one call; and what parity found with another graph is forgotten."""
    import parity

    monkeypatch.setattr("maml_fast.inner_loop._engines.native_loop", lambda *_: "as on a GPU")
    parity._check.cache_clear()
    parity._float32_losses.cache_clear()


@pytest.fixture
def replays(monkeypatch):
    """How many there were."""
    counted = []
    replay = HostGraph.replay
    monkeypatch.setattr(HostGraph, "replay", lambda graph: (counted.append(graph), replay(graph)))
    return counted


@pytest.mark.parametrize("workload", QUICK, ids=lambda workload: workload.name)
def test_replays_are_compared(workload, replays):
    errors = check(workload, GRAPHED)
    assert max(errors.loss, errors.gradient) < 1e-12
    assert len(replays) == 4  # in float64 and in float32: one ends the warm-up, the other is compared
    assert len(set(replays)) == 2


def test_a_wrong_replay_is_not_timed(monkeypatch):
    monkeypatch.setattr(HostGraph, "replay", lambda graph: None)
    with pytest.raises(ParityError, match="Q2: maml_fast, CUDA graph against maml_fast, losses in float64"):
        check(Q2, GRAPHED)


def test_a_replay_of_old_episodes_is_not_timed(monkeypatch):
    copy_in, copied = _GraphOfSize._copy_in, set()

    def copy_once(graph, episodes):
        if graph not in copied:
            copied.add(graph)
            copy_in(graph, episodes)

    monkeypatch.setattr(_GraphOfSize, "_copy_in", copy_once)
    with pytest.raises(ParityError, match="losses in float64"):
        check(Q2, GRAPHED)


def test_replays_are_timed_and_measured(replays):
    contestant = Contestant("Q2", GRAPHED.name, Place(torch.get_num_threads()))
    contestant.peak_mib()
    assert len(replays) == 3  # the captured one, one more to settle, and one iteration
    before = len(replays)
    rounds = contestant.times(0.05)
    assert len(replays) - before == WARM_UP + 1 + 1 + len(rounds)
    assert len(set(replays)) == 1


def test_a_graph_that_is_not_captured_is_told(monkeypatch):
    monkeypatch.setattr("peers.graphed.WARM_UP", 0)
    learner = GRAPHED(Q2, Q2.start(torch.float32))
    with pytest.raises(RuntimeError, match="the CUDA graph is not replayed"):
        learner.settle()


def test_settling_leaves_the_parameters_and_no_gradient():
    learner, ours = (peer(Q2, Q2.start(torch.float32)) for peer in (GRAPHED, OURS))
    learner.settle()
    for a, b in zip(learner.parameters, ours.parameters, strict=True):
        assert torch.equal(a, b)
        assert a.grad is None


def test_another_number_of_tasks_begins_anew(replays):
    contestant = Contestant("Q2", GRAPHED.name, Place(torch.get_num_threads()))
    for tasks in (1, 3):
        contestant.begin_anew(tasks)
        assert len(contestant.times(0.01)) >= 1
        assert contestant._episodes.meta_batch_size == tasks
    assert len(set(replays)) == 2

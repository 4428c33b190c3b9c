"""Whole meta-training iterations: maml_fast against its peers, in time and in memory."""

from __future__ import annotations

import memory
import parity
import pytest
import settings
import torch
from peers import OURS, PEERS, TRUTH


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    timed = "timer" in metafunc.fixturenames
    cases = [
        pytest.param(workload, peer, id=f"{workload.name}-{peer.name}-{sweep}")
        for workload in (asked.workloads if timed or not asked.quick else asked.workloads[:1])
        for sweep in range(asked.sweeps if timed else 1)  # outside the peers: noise on the machine hits all alike
        for peer in (PEERS if timed or not asked.quick else PEERS[:1])
        if peer.obstacle(workload) is None
    ]
    metafunc.parametrize(("workload", "peer"), cases)


@pytest.fixture
def row(workload, peer, measurements):
    """The row of this workload and peer; where memory is short the bench is left out, and the record says so."""
    row = measurements.row("iteration", workload.name, workload.title, peer.title)
    row.skipped = memory.shortage(peer.memory_needed(workload))
    if row.skipped:
        pytest.skip(row.skipped)
    return row


def test_time(workload, peer, row, timer):
    row.parity = parity.check(workload, TRUTH if peer is OURS else peer)._asdict()
    row.flops = workload.flops()
    learner = peer(workload, workload.start(torch.float32))
    timer(row, learner.iteration, workload.episodes())


def test_memory(workload, peer, row):
    row.peak_mib = memory.peak_in_child(workload, peer)

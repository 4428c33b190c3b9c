"""Time and memory of whole meta-training iterations: maml_fast against its peers, each in a process of its own."""

from __future__ import annotations

import memory
import pytest
import settings
from child import Child, ChildError
from contestant import Contestant
from peers import OURS

from maml_fast import native


def pytest_generate_tests(metafunc):
    asked, found = settings.of(metafunc), settings.found_by(metafunc.config)
    cases = []
    for workload in asked.workloads:
        for peer in asked.peers:
            obstacle = peer.obstacle(workload) or memory.shortage(peer.memory_needed(workload), workload.device)
            row_of(found, workload, peer).skipped = obstacle
        cases += [
            pytest.param(workload, peer, id=f"{workload.name}-{peer.name}-{sweep}")
            for sweep in range(asked.sweeps)  # outside the peers: noise on the machine hits all alike
            for peer in asked.peers
            if row_of(found, workload, peer).skipped is None
        ]
    metafunc.parametrize(("workload", "peer"), cases)


def row_of(found, workload, peer):
    return found.row("iteration", workload.name, workload.title, peer.title)


def test_iteration(workload, peer, found, asked):
    row = row_of(found, workload, peer)
    row.flops = workload.flops()
    arguments = (workload.name, peer.name, asked.place)
    environment = peer.quick_environment if asked.quick else {}
    try:
        with Child(f"{peer.title} on {workload.name}", Contestant, *arguments, environment=environment) as child:
            row.peak_mib = child.call("peak_mib")
            row.parity = child.call("parity")
            row.seconds += child.call("times", asked.seconds)
            if peer is OURS and workload.device == "cpu" and native.library() is not None:
                row.shares = child.call("shares")
            if issubclass(peer, OURS) and workload.device == "cuda":
                note_kernels(row, workload, child)
    except ChildError as error:
        row.failed = str(error)
        raise


def note_kernels(row, workload, child):
    """Profile last, because a failing profiler may end the process."""
    try:
        row.kernels, row.product_flops = child.call("kernels"), workload.convolution_flops()
    except ChildError as error:
        row.untraced = str(error)

"""Every algorithm on one workload: maml_fast against a naive loop over the tasks, after a parity check."""

from __future__ import annotations

import pytest
import settings
from child import Child, ChildError
from contestant import Contestant
from peers import NAIVE, OURS


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    cases = [
        pytest.param(workload, peer, id=f"{workload.name}-{peer.name}-{sweep}")
        for workload in asked.algorithms
        for sweep in range(asked.sweeps)
        for peer in (OURS, NAIVE)
    ]
    metafunc.parametrize(("workload", "peer"), cases)


def test_algorithm(workload, peer, found, asked):
    row = found.row("algorithms", workload.algorithm, workload.title, peer.title)
    try:
        arguments = (workload.name, peer.name, asked.place)
        with Child(f"{peer.title} on {workload.name}", Contestant, *arguments) as child:
            row.parity = child.call("parity", NAIVE.name)
            row.peak_mib = child.call("peak_mib")
            row.seconds += child.call("times", asked.seconds)
            if peer is OURS:
                row.ran = child.call("ran")
    except ChildError as error:
        row.failed = str(error)
        raise

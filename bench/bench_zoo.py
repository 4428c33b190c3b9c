"""MAML on every net of the zoo, at both orders: maml_fast and the plain loop in turns, then the other peers."""

from __future__ import annotations

import memory
import pytest
import settings
from child import Child, ChildError
from contestant import Contestant
from peers import OURS, TRUTH, ZOO_PEERS
from race import Race
from zoo.workload import TIMED_WHEN_QUICK

RACED = (OURS, TRUTH)


def is_timed(workload, asked):
    return not asked.quick or workload.net in TIMED_WHEN_QUICK


def pytest_generate_tests(metafunc):
    asked, found = settings.of(metafunc), settings.found_by(metafunc.config)
    timed = [workload for workload in asked.zoo if is_timed(workload, asked)]
    cases = {"workload": [pytest.param(each, id=each.name) for each in asked.zoo]}
    if "peer" in metafunc.fixturenames:
        peers = [peer for peer in (*RACED, *ZOO_PEERS) if peer in (*RACED, *asked.peers)]
        # The peaks of maml_fast and the loop are measured at order 2 only: order 1 keeps less.
        pairs = [(workload, peer) for workload in timed for peer in peers if peer not in RACED or workload.order == 2]
        for workload, peer in pairs:
            row_of(found, workload, peer).skipped = obstacle(workload, peer)
        cases["workload,peer"] = [
            pytest.param(workload, peer, id=f"{workload.name}-{peer.name}")
            for workload, peer in pairs
            if row_of(found, workload, peer).skipped is None
        ]
        del cases["workload"]
    for names, values in cases.items():
        metafunc.parametrize(names, values)


def row_of(found, workload, peer):
    return found.row("zoo", workload.net, workload.title, peer.title, workload.order)


def obstacle(workload, peer):
    if peer in RACED:
        return None
    return peer.obstacle(workload) or memory.shortage(peer.memory_needed(workload), workload.device)


def test_race(workload, found, asked):
    """Time maml_fast and the plain loop in one process."""
    ours, loop = (row_of(found, workload, peer) for peer in RACED)
    try:
        with Child(f"maml_fast and the loop on {workload.name}", Race, workload.name, asked.place) as child:
            ours.parity = loop.parity = child.call("parity")
            for _ in range(asked.sweeps if is_timed(workload, asked) else 0):
                for row, seconds in zip((ours, loop), child.call("times", asked.seconds), strict=True):
                    row.seconds += seconds
                ours.ran = child.call("engine")
    except ChildError as error:
        ours.failed = str(error)
        raise


def test_peer(workload, peer, found, asked):
    """Measure the peaks of maml_fast and the loop, and the times of all other peers, each in a process of its own."""
    row = row_of(found, workload, peer)
    try:
        arguments = (workload.name, peer.name, asked.place)
        environment = peer.quick_environment if asked.quick else {}
        with Child(f"{peer.title} on {workload.name}", Contestant, *arguments, environment=environment) as child:
            if peer in RACED:
                row.peak_mib = child.call("peak_mib")
                row.process_mib = child.call("process_mib")
            else:
                row.parity = child.call("parity", TRUTH.name, False)
                row.seconds += child.call("times", asked.seconds)
    except ChildError as error:
        row.failed = str(error)
        if peer in RACED:
            raise
        pytest.skip(str(error))  # not every peer can train every net

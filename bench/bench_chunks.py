"""The effect of ``task_chunk`` on the time and the peak memory of an iteration."""

from __future__ import annotations

import pytest
import settings
from child import Child
from contestant import Contestant
from peers import OURS

CHUNKS = (1, 2, 4, 8, 16, 32)


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    cases = [
        pytest.param(workload, chunk, id=f"{workload.name}-{chunk}-{sweep}")
        for workload in asked.kinds_of_episodes
        for sweep in range(asked.sweeps)
        for chunk in CHUNKS
        if chunk <= workload.meta_batch_size
    ]
    metafunc.parametrize(("workload", "chunk"), cases)


def test_chunk(workload, chunk, found, asked):
    row = found.row("chunks", workload.name, workload.title, OURS.title, chunk)
    row.flops = workload.flops()
    arguments = (workload.name, OURS.name, asked.place, {"task_chunk": chunk})
    with Child(f"maml_fast on {workload.name}, {chunk} tasks at a time", Contestant, *arguments) as child:
        row.peak_mib = child.call("peak_mib")
        row.seconds += child.call("times", asked.seconds)

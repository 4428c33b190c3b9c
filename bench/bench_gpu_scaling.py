"""Time of an iteration over the number of tasks on a GPU, call by call and as a CUDA graph, up to the GPU's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import scaling
import settings
import torch
import workloads
from child import Child, ChildError
from contestant import Contestant
from peers import GRAPHED, OURS

SHARE = 0.5  # of the time: there are many points
WHAT = {OURS: scaling.WHOLE, GRAPHED: scaling.REPLAYED}


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    cases = [pytest.param(peer, id=f"{peer.name}-{sweep}") for sweep in range(asked.sweeps) for peer in WHAT]
    metafunc.parametrize("peer", cases)


def test_tasks(peer, found, asked):
    """Measure a curve in one process, from few tasks to many; stop at the first that the GPU's memory can't hold."""
    workload = workloads.named("Q2" if asked.quick else "W3-order2")
    counts, too_large = scaling.task_counts(asked.quick), None
    if asked.place.device == "cuda":
        torch.cuda.empty_cache()  # of this process, so that the other has it
    with Child(f"{peer.title} on {workload.name}", Contestant, workload.name, peer.name, asked.place) as child:
        for tasks in counts:
            row = found.row("scaling", "tasks", WHAT[peer], scaling.FLOAT32, tasks)
            row.flops, row.tasks = replace(workload, meta_batch_size=tasks).flops(), tasks
            too_large = too_large or measure(row, child, SHARE * asked.seconds)
            row.skipped = too_large


def measure(row, child, seconds):
    """Return why the point can't be measured, or None."""
    try:
        child.call("begin_anew", row.tasks)
        row.peak_mib = child.call("peak_mib")
        row.seconds += child.call("times", seconds)
    except ChildError as error:
        if "OutOfMemoryError" not in error.causes:
            row.failed = str(error)
            raise
        return f"{row.tasks} tasks are too many for the GPU's memory"
    return None

"""Time over the number of tasks, images, channels, pixels and threads, and the cost of float64 and of AVX2."""

from __future__ import annotations

import memory
import pytest
import scaling
import settings
import torch
from blocks import PASSES
from child import Child
from peers import OURS

SHARE = 0.1  # of the time: there are very many of them


def pytest_generate_tests(metafunc):
    asked = settings.of(metafunc)
    points_of, passes = CASES[metafunc.function.__name__]
    cases = [
        pytest.param(point, until, id=f"{point.curve}-{point.at}-{point.who}-{until}-{sweep}")
        for sweep in range(asked.sweeps)
        for point in points_of(asked.quick)
        for until in passes
    ]
    metafunc.parametrize(("point", "until"), cases)


def whole_points(quick):
    """Yield the points of whole iterations for which there is enough memory."""
    for point in scaling.whole_points(quick):
        if memory.shortage(OURS.memory_needed(point.workload)) is None:
            yield point


CASES = {
    "test_block": (scaling.points, PASSES),
    "test_avx2": (scaling.avx2_points, PASSES),
    "test_whole": (whole_points, [scaling.WHOLE]),
}


@pytest.fixture
def row(point, until, found):
    return found.row("scaling", point.curve, until, point.who, point.at)


@pytest.fixture
def threads(point):
    """Set the number of threads of a point while it is measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(point.threads or before)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_block(point, until, row, timer):
    row.flops, row.tasks = point.block.flops(until), point.block.tasks
    timer(row, scaling.runner(point.block, until, point.who), share=SHARE)


def test_avx2(point, until, row, threads, asked):
    row.flops, row.tasks = point.block.flops(until), point.block.tasks
    environment = {"MAML_FAST_CPU": "avx2"}
    with Child(point.who, scaling.BlockRunner, point.block, until, threads, environment=environment) as child:
        row.seconds += child.call("times", SHARE * asked.seconds)


@pytest.mark.usefixtures("threads")
def test_whole(point, row, timer):
    workload = point.workload
    row.flops, row.tasks = workload.flops(), workload.meta_batch_size
    learner = OURS(workload, workload.start(torch.float32))
    timer(row, learner.iteration, workload.episodes(), share=4 * SHARE)

"""What is timed along curves: one quantity of a block or of a workload grows at a time, so that cliffs are visible."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import blocks
import torch
import workloads
from blocks import Block
from rounds import repeat
from workloads import Workload

from maml_fast import ops
from maml_fast.native._toolchain import instruction_sets

FLOAT32, FLOAT64, AVX2 = "float32", "float64", "float32, AVX2"
WHOLE, REPLAYED = "whole iteration", "whole iteration, CUDA graph"

TASKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GPU_TASKS = (*TASKS, 512, 1024)
IMAGES = (1, 2, 3, 5, 7, 8, 10, 15, 16, 20, 25, 32, 50, 64, 75, 100)
CHANNELS = (8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128)
SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 17, 19, 21, 23, 25, 27, 28, 29, 31)
FEW_SIZES = (3, 7, 14, 28)  # of Conv4's blocks: for the other precision and the other instruction set


@dataclass(frozen=True)
class Point:
    """A point of a curve: a block, its place on the curve, and how it runs."""

    curve: str
    at: int
    block: Block
    who: str = FLOAT32
    threads: int | None = None  # None: as many as everywhere


@dataclass(frozen=True)
class WholePoint:
    """A point of a curve: an iteration of a workload."""

    curve: str
    at: int
    workload: Workload
    who: str = FLOAT32
    threads: int | None = None


BLOCK = Block("scaling", 2, tasks=8, images=5, in_channels=64, size=14)
QUICK = replace(BLOCK, tasks=2, images=2, in_channels=4, channels=4, size=4)
QUICK_POINTS = 2  # of every curve


def points(quick: bool) -> Iterable[Point]:
    """The curves of a block, in this process."""
    block, some = (QUICK, _first) if quick else (BLOCK, list)
    yield from (Point("tasks", n, replace(block, tasks=n)) for n in some(TASKS))
    yield from (Point("images of a task", n, replace(block, images=n)) for n in some(IMAGES))
    yield from (Point("channels", n, replace(block, in_channels=n, channels=n)) for n in some(CHANNELS))
    yield from (Point("image size", n, replace(block, size=n)) for n in some(SIZES))
    yield from (Point("image size", n, replace(block, size=n), FLOAT64) for n in some(FEW_SIZES))
    many_tasks = replace(block, tasks=4 * block.tasks)  # work for all threads
    yield from (Point("threads", n, many_tasks, threads=n) for n in some(thread_counts()))


def avx2_points(quick: bool) -> Iterable[Point]:
    """Return the curve of a block on AVX2; only a new process can be restricted to AVX2. Only x86-64 has it."""
    if "avx2" not in instruction_sets():
        return
    block, some = (QUICK, _first) if quick else (BLOCK, list)
    yield from (Point("image size", n, replace(block, size=n), AVX2) for n in some(FEW_SIZES))


def whole_points(quick: bool) -> Iterable[WholePoint]:
    """The curves of whole iterations: Conv4-64 with one second-order step."""
    workload, some = (workloads.named("Q2"), _first) if quick else (workloads.named("W2-order2"), list)
    yield from (WholePoint("tasks", n, replace(workload, meta_batch_size=n)) for n in some(TASKS))
    yield from (WholePoint("threads", n, workload, threads=n) for n in some(thread_counts()))


def task_counts(quick: bool) -> list[int]:
    """Return the numbers of tasks on a GPU's curves."""
    return (_first if quick else list)(GPU_TASKS)


def _first(values: Iterable[int]) -> list[int]:
    return list(values)[:QUICK_POINTS]


def thread_counts() -> list[int]:
    """1, 2, ... while there are few; then in steps; and all."""
    most = torch.get_num_threads()
    return sorted({*range(1, min(most, 8) + 1), *range(8, most, 8), most})


class BlockRunner:
    """All passes of a block up to one, native, for a process of its own."""

    def __init__(self, block: Block, until: blocks.Pass, threads: int) -> None:
        torch.set_num_threads(threads)
        self._run = runner(block, until, FLOAT32)

    def times(self, seconds: float) -> list[float]:
        """Return the seconds of each round, without the first ones, which are slow in a new process."""
        repeat(self._run, seconds)
        return repeat(self._run, seconds)

    def close(self) -> None:
        """There is nothing to free."""


def runner(block: Block, until: blocks.Pass, who: str) -> Callable[[], object]:
    """Return a function that runs the passes."""
    tensors = block.tensors(torch.float64 if who == FLOAT64 else torch.float32)
    return lambda: blocks.run(block, ops.conv_block, tensors, until)

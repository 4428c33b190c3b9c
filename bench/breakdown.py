"""Where the time of an iteration goes: into the kernels of the convolution blocks, or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import rounds
from torch.profiler import ProfilerActivity, profile

KERNELS = "maml_fast::"  # operations, none of which calls another
ROUNDS = 3


def share_of_blocks(iteration: Callable[[], object]) -> float:
    """Share of the wall time; at most 1."""
    inside = median(_seconds_inside(iteration) for _ in range(ROUNDS))
    whole = median(rounds.seconds_of(iteration) for _ in range(ROUNDS))  # the profiler would slow all else down
    return min(inside / whole, 1.0)


def _seconds_inside(iteration: Callable[[], object]) -> float:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        iteration()
    return sum(event.time_range.elapsed_us() for event in profiler.events() if event.name.startswith(KERNELS)) / 1e6

"""Rounds of a measurement: a warm-up, then as many rounds as there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

MOST = 30


def repeat(function: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds of each round; there is at least one."""
    return [seconds_of(function) for _ in range(within(seconds, seconds_of(function)))]


def within(seconds: float, once: float) -> int:
    """Return the number of rounds of ``once`` seconds each."""
    return min(max(int(seconds / once), 1), MOST)


def seconds_of(function: Callable[[], object]) -> float:
    """Return the seconds of one call, including the work of the GPU if one is in use."""
    wait_for_gpu()
    start = time.perf_counter()
    function()
    wait_for_gpu()
    return time.perf_counter() - start


def wait_for_gpu() -> None:
    """Wait until a GPU has finished all queued work, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()

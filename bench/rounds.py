"""A warm-up tells how many rounds there is time for; then come the rounds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

MOST = 30


def repeat(function: Callable[[], object], seconds: float) -> list[float]:
    """The seconds of each round; at least one."""
    return [seconds_of(function) for _ in range(within(seconds, seconds_of(function)))]


def within(seconds: float, once: float) -> int:
    """How many rounds of ``once`` seconds each."""
    return min(max(int(seconds / once), 1), MOST)


def seconds_of(function: Callable[[], object]) -> float:
    """How long one call takes, until a GPU is done too where one is in use."""
    wait_for_gpu()
    start = time.perf_counter()
    function()
    wait_for_gpu()
    return time.perf_counter() - start


def wait_for_gpu() -> None:
    """Until all is done that was queued; where no GPU is in use, not at all."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()

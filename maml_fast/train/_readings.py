"""Numbers of an iteration, read from the device at once, or one iteration late so that a GPU need not wait."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["LateReader", "Reading", "read_at_once"]

Reading: TypeAlias = Callable[[], list[float]]  # waits for the numbers if they are not there yet


def read_at_once(numbers: Tensor) -> Reading:
    """Wait for the numbers now."""
    values: list[float] = numbers.tolist()
    return lambda: values


class LateReader:
    """Copies numbers to memory of the CPU, without waiting for the device.

    The memory is pinned, so that a GPU can copy to it while the CPU goes on. A reading must be taken before the next
    but one begins, which overwrites it.

    Args:
        device: the device of the numbers.
        count: how many there are.
    """

    def __init__(self, device: torch.device, count: int) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self._places = cycle([torch.empty(count, dtype=torch.float64, pin_memory=on_gpu) for _ in range(2)])

    def __call__(self, numbers: Tensor) -> Reading:
        place = next(self._places)
        place.copy_(numbers, non_blocking=True)
        if self._device.type == "cpu":
            return place.tolist
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self._device))

        def wait() -> list[float]:
            copied.synchronize()
            values: list[float] = place.tolist()
            return values

        return wait

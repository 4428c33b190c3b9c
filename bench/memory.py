"""Free memory, and the peak memory of a program.

The CPU's memory is known only on Linux; a GPU's is what PyTorch reports.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch

MARGIN = 0.9  # the share of the available memory that may be used
SELF = "self"  # this process, among the process identifiers
NAMES = {"cpu": "memory", "cuda": "GPU memory"}


def available(device: str = "cpu") -> int | None:
    """Return the bytes that a program could allocate now."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return _fields(Path("/proc/meminfo")).get("MemAvailable")


def shortage(needed: float, device: str = "cpu") -> str | None:
    """Return why this many bytes can't be allocated, or None."""
    free = available(device)
    if free is None or needed <= MARGIN * free:
        return None
    return f"needs about {needed / 2**30:.1f} GiB of {NAMES[device]}, {free / 2**30:.1f} GiB are available"


class Meter(Protocol):
    """Measures from when it is made."""

    def forget_peak(self, workers: Iterable[int] = ()) -> None:
        """Reset the peak."""

    def added_mib(self, workers: Iterable[int] = ()) -> float | None:
        """Return the MiB at the peak beyond what was held at first."""

    def peak_mib(self, workers: Iterable[int] = ()) -> float | None:
        """Return the MiB at the peak."""


def meter(device: str) -> Meter:
    """Return a meter for the memory of this device."""
    return GpuMeter() if device == "cuda" else HostMeter()


class HostMeter:
    """Measures what this process and its workers hold, without mapped files such as libraries."""

    def __init__(self) -> None:
        status = _fields(Path("/proc/self/status"))
        self._before = status["VmRSS"] - status["RssFile"] if "RssFile" in status else None

    def forget_peak(self, workers: Iterable[int] = ()) -> None:
        """Reset the peak, where the system allows it."""
        for process in (SELF, *workers):
            with contextlib.suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5")

    def added_mib(self, workers: Iterable[int] = ()) -> float | None:
        """Return this process's MiB beyond what it held at first, and all MiB of its workers, at their peaks."""
        peak = self.peak_mib(workers)
        return None if peak is None or self._before is None else peak - self._before / 2**20

    def peak_mib(self, workers: Iterable[int] = ()) -> float | None:
        """Return the MiB of this process and its workers, including the interpreter and PyTorch."""
        peaks = [_fields(Path(f"/proc/{process}/status")) for process in (SELF, *workers)]
        if not all("VmHWM" in peak for peak in peaks):
            return None
        return sum(peak["VmHWM"] - peak["RssFile"] for peak in peaks) / 2**20


class GpuMeter:
    """Measures the tensors that PyTorch holds for this process on the GPU."""

    def __init__(self) -> None:
        self._before = torch.cuda.memory_allocated()

    def forget_peak(self, workers: Iterable[int] = ()) -> None:
        """There are no workers on a GPU."""
        torch.cuda.reset_peak_memory_stats()

    def added_mib(self, workers: Iterable[int] = ()) -> float:
        """Return the MiB at the peak beyond what was held at first."""
        return self.peak_mib() - self._before / 2**20

    def peak_mib(self, workers: Iterable[int] = ()) -> float:
        """Return the MiB of PyTorch's tensors at the peak."""
        return torch.cuda.max_memory_allocated() / 2**20


def _fields(file: Path) -> dict[str, int]:
    """Bytes from lines such as ``VmRSS:   1234 kB``."""
    try:
        lines = file.read_text(encoding="utf8").splitlines()
    except OSError:  # not Linux
        return {}
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith(" kB")}

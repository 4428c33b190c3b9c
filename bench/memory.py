"""How much memory there is, and how much a program takes at its peak. Linux tells; elsewhere nothing is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

MARGIN = 0.9  # of what is available may be taken
SELF = "self"  # this process, among the process identifiers


def available() -> int | None:
    """Bytes that a program could take now."""
    return _fields(Path("/proc/meminfo")).get("MemAvailable")


def shortage(needed: float) -> str | None:
    """Why so many bytes can't be had, or None."""
    free = available()
    if free is None or needed <= MARGIN * free:
        return None
    return f"needs about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are available"


def held() -> int | None:
    """Bytes that this process holds now; files that are mapped, such as libraries, do not count."""
    fields = _fields(Path("/proc/self/status"))
    return fields["VmRSS"] - fields["RssFile"] if "RssFile" in fields else None


def forget_peak(workers: Iterable[int] = ()) -> None:
    """Let the peak of this process and these others begin anew, where the system allows it."""
    for process in (SELF, *workers):
        with contextlib.suppress(OSError):
            Path(f"/proc/{process}/clear_refs").write_text("5")


def added_mib(before: int | None, workers: Iterable[int] = ()) -> float | None:
    """MiB at the peak of this process beyond ``before``, and all that its workers hold at theirs."""
    peaks = [_fields(Path(f"/proc/{process}/status")) for process in (SELF, *workers)]
    if before is None or not all("VmHWM" in peak for peak in peaks):
        return None
    return (sum(peak["VmHWM"] - peak["RssFile"] for peak in peaks) - before) / 2**20


def _fields(file: Path) -> dict[str, int]:
    """Bytes from lines such as ``VmRSS:   1234 kB``."""
    try:
        lines = file.read_text(encoding="utf8").splitlines()
    except OSError:  # not Linux
        return {}
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith(" kB")}

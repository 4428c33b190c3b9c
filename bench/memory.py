"""How much memory there is, and how much a peer takes at its peak, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from peers import Learner
from peers import named as peer_named
from workloads import Workload
from workloads import named as workload_named

MARGIN = 0.9  # of what is available may be taken


def available() -> int | None:
    """Bytes that a program could take now; None where the system does not tell."""
    return _bytes(Path("/proc/meminfo"), "MemAvailable")


def shortage(needed: float) -> str | None:
    """Why so many bytes can't be had, or None."""
    free = available()
    if free is None or needed <= MARGIN * free:
        return None
    return f"needs about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are available"


def peak_in_child(workload: Workload, peer: type[Learner]) -> float | None:
    """MiB that two training iterations add at their peak, in a fresh process; None where the system does not tell.

    Raises:
        RuntimeError: the process failed.
    """
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, str(Path(__file__).resolve()), workload.name, peer.name]
    child = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if child.returncode != 0:
        raise RuntimeError(f"{peer.title} on {workload.name} failed in its own process:\n{child.stderr.strip()}")
    told = child.stdout.split()[-1]
    return None if told == "unknown" else float(told)


def _measure(workload: Workload, peer: type[Learner]) -> float | None:
    learner = peer(workload, workload.start(torch.float32))
    episodes = workload.episodes()
    _warm_up(peer)
    before = _bytes(Path("/proc/self/status"), "VmRSS")
    for _ in range(2):
        learner.iteration(episodes)
    # Not getrusage: its maximum starts at the size of the process that started this one.
    peak = _bytes(Path("/proc/self/status"), "VmHWM")
    return None if before is None or peak is None else (peak - before) / 2**20


def _warm_up(peer: type[Learner]) -> None:
    """Load what is loaded at first use, so that it is not counted."""
    tiny = workload_named("Q2")
    peer(tiny, tiny.start(torch.float32)).iteration(tiny.episodes())


def _bytes(file: Path, name: str) -> int | None:
    """Bytes from a line such as ``VmRSS:   1234 kB``."""
    try:
        lines = file.read_text(encoding="utf8").splitlines()
    except OSError:  # not Linux
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    peak = _measure(workload_named(sys.argv[1]), peer_named(sys.argv[2]))
    print("unknown" if peak is None else peak)

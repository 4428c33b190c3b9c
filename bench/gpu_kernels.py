"""The time of a GPU's kernels in a call, by whose kernels they are, from traces of PyTorch's profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

CALLS = 3
ACTIVITIES = (ProfilerActivity.CUDA,)  # what to trace
WORK = ("kernel", "gpu_memcpy", "gpu_memset")  # the trace's categories of what a GPU does
# In the names of kernels: convolutions, those of thin first layers with the ReLU and pooling that they do on their way;
# and our namespace.
PRODUCTS, OURS = ("MultiplyKernel", "ThinNormReluPool", "SumGradientPatches", "TangentAtMaxima"), "maml_fast"

Event = Mapping[str, Any]  # of a trace in Chrome's format: cat, name, ts and dur in microseconds


class NoTraceError(RuntimeError):
    """The profiler has recorded nothing of the GPU."""


class KernelTimes(NamedTuple):
    """Seconds of one call.

    products: in the matrix products that our convolutions are.
    ours: in our other kernels.
    others: in PyTorch's kernels, its libraries', copies and fills.
    busy: in any of them. Less than their sum where some ran side by side.
    """

    products: float
    ours: float
    others: float
    busy: float


def times_of(events: Iterable[Event], calls: int) -> KernelTimes:
    """Return the times per call from a trace of ``calls`` calls.

    Raises:
        NoTraceError: the trace has no work of a GPU.
    """
    work = [event for event in events if event.get("cat") in WORK]
    if not work:
        raise NoTraceError("PyTorch's profiler saw no kernel: it needs CUPTI, which comes with CUDA")
    seconds = dict.fromkeys(("products", "ours", "others"), 0.0)
    for event in work:
        seconds[_whose(event["name"])] += 1e-6 * event["dur"] / calls
    return KernelTimes(**seconds, busy=1e-6 * _covered(work) / calls)


def _whose(name: str) -> str:
    if any(product in name for product in PRODUCTS):
        return "products"
    return "ours" if OURS in name else "others"


def _covered(work: Iterable[Event]) -> float:
    """Return the microseconds in which at least one event was running."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted((event["ts"], event["ts"] + event["dur"]) for event in work):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def measure(call: Callable[[], object], calls: int = CALLS) -> KernelTimes:
    """Return the times per call over some calls, after an untraced one.

    Raises:
        NoTraceError: the profiler can't trace here.
    """
    call()
    return times_of(_trace(lambda: [call() for _ in range(calls)]), calls)


def wake_profiler() -> None:
    """Run the profiler once: it may miss the kernels of a CUDA graph that was captured before its first run."""
    _trace(lambda: torch.zeros(1, device="cuda"))


def _trace(work: Callable[[], object]) -> list[Event]:
    try:
        with profile(activities=ACTIVITIES) as profiler:
            work()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "trace.json")
            profiler.export_chrome_trace(str(file))
            return json.loads(file.read_text(encoding="utf8", errors="replace"))["traceEvents"]
    except (RuntimeError, AssertionError, ValueError) as error:  # it fails in several ways
        raise NoTraceError(f"PyTorch's profiler can't trace here: {error}") from error

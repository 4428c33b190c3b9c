"""Python starts so where this folder is on its path: the host plays the GPU, its graphs and what is traced of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_gpu  # noqa: F401 - it says that there is a GPU
import pytest
import torch
from graph_on_host import play_graphs

from maml_fast import native
from maml_fast.inner_loop import _engines as engines


def on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        given = ["cpu" if each == "cuda" else each for each in arguments]
        return function(*given, **{name: "cpu" if each == "cuda" else each for name, each in options.items()})

    return call


class Profiler:
    """Stands in for ``torch.profiler.profile``: every trace is of two kernels."""

    def __init__(self, activities: Any) -> None:
        assert list(activities) == [torch.profiler.ProfilerActivity.CUDA]

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None: ...

    def export_chrome_trace(self, file: str) -> None:
        names = "maml_fast::cuda::MultiplyKernel<>", "at::native::sin_kernel"
        events = [{"cat": "kernel", "name": name, "ts": 9 * i, "dur": 3} for i, name in enumerate(names)]
        Path(file).write_text(json.dumps({"traceEvents": events}))


torch.profiler.profile = Profiler
play_graphs(pytest.MonkeyPatch())
for owner, name in ((torch.Tensor, "to"), (torch, "rand"), (torch, "zeros")):
    setattr(owner, name, on_host(getattr(owner, name)))
for name in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats", "empty_cache"):
    setattr(torch.cuda, name, lambda: 0)
native.has_cuda_kernels = lambda: True
engines.native_loop = lambda *_: "as on a GPU"

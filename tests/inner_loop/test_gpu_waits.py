"""Where a thread waits for the GPU, while other threads do so too."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from streams_on_host import PlayedDevice
from torch import Tensor

from maml_fast.inner_loop._gpu_waits import waits_for_gpu
from maml_fast.inner_loop._graphed import WARM_UP, CudaGraph


def wait_for_gpu() -> None:
    torch.zeros(()).item()


def in_other_thread(device: PlayedDevice, function: Callable[[], None]) -> None:
    """Run the function in a thread of its own, on the same device."""

    def run() -> None:
        with device:
            function()

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(run).result()


def test_each_thread_finds_its_own(graphs_on_host: PlayedDevice) -> None:
    with waits_for_gpu() as waits:
        in_other_thread(graphs_on_host, wait_for_gpu)
        assert waits == []
        wait_for_gpu()
    assert len(waits) == 1
    assert waits[0].rsplit(":", 1)[0].endswith(".py")
    wait_for_gpu()
    assert len(waits) == 1


def test_two_threads_that_watch_at_a_time(graphs_on_host: PlayedDevice) -> None:
    """The one that began first ends first; afterwards all is as it was."""
    show, filters, found = warnings.showwarning, list(warnings.filters), {}
    step = threading.Barrier(2, timeout=60)

    def first() -> None:
        with graphs_on_host, waits_for_gpu() as found["first"]:
            step.wait()  # both watch
            step.wait()
            wait_for_gpu()
        step.wait()  # this one has ended

    def second() -> None:
        step.wait()
        with graphs_on_host, waits_for_gpu() as found["second"]:
            wait_for_gpu()
            step.wait()
            step.wait()
            wait_for_gpu()

    with ThreadPoolExecutor(max_workers=2) as threads:
        for done in [threads.submit(each) for each in (first, second)]:
            done.result()
    assert {name: len(waits) for name, waits in found.items()} == {"first": 1, "second": 2}
    assert torch.cuda.get_sync_debug_mode() == 0
    assert warnings.showwarning is show
    assert warnings.filters == filters


def test_the_mode_that_was_set_comes_back(graphs_on_host: PlayedDevice) -> None:
    with pytest.warns(match="prototype"):
        torch.cuda.set_sync_debug_mode("error")
    with waits_for_gpu() as waits:
        wait_for_gpu()
    assert len(waits) == 1
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        wait_for_gpu()


def test_other_warnings_are_shown(graphs_on_host: PlayedDevice) -> None:
    with pytest.warns(UserWarning, match="another matter"), waits_for_gpu() as waits:
        warnings.warn("another matter", stacklevel=1)
    assert waits == []


def test_a_capture_goes_on_while_another_thread_waits(graphs_on_host: PlayedDevice) -> None:
    """Such as one that validates, in the very call that is watched."""
    x = torch.ones(3)

    def function() -> Tensor:
        in_other_thread(graphs_on_host, wait_for_gpu)
        return x + 1

    graph: CudaGraph[Tensor] = CudaGraph("it", "leave it")
    for _ in range(WARM_UP + 2):
        result = graph((), torch.device("cpu"), function)
    assert graph.is_captured
    assert result.tolist() == [2] * 3

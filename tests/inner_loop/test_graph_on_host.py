"""The player of CUDA graphs itself: what a GPU would not do, it does not do either."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from streams_on_host import PlayedDevice, Stream
from torch import Tensor

from maml_fast.inner_loop._graphed import WARM_UP, CudaGraph

pytestmark = pytest.mark.usefixtures("graphs_on_host")


def replayed(function: Callable[[], Tensor], times: int = WARM_UP + 2) -> Tensor:
    graph: CudaGraph[Tensor] = CudaGraph("it", "leave it")
    for _ in range(times):
        result = graph((), torch.device("cpu"), function)
    assert graph.is_captured
    return result


def test_numbers_of_python_stay_as_they_were() -> None:
    counted, x = [0], torch.ones(2)

    def function() -> Tensor:
        counted[0] += 1
        return x * counted[0]

    assert replayed(function).tolist() == [WARM_UP + 1] * 2
    assert counted == [WARM_UP + 1]


def test_memory_is_read_and_written_anew() -> None:
    x = torch.zeros(3)
    assert replayed(lambda: x.add_(1)[:2] * 2).tolist() == [2 * (WARM_UP + 2)] * 2
    assert x.tolist() == [WARM_UP + 2] * 3


def test_a_capture_changes_nothing() -> None:
    graph, x = torch.cuda.CUDAGraph(), torch.zeros(3)
    with torch.cuda.graph(graph, stream=None, capture_error_mode="thread_local"):
        y = x.add_(1) + 1
    assert x.tolist() == [0] * 3
    assert y.isnan().all()


def test_memory_of_nobody_is_missed() -> None:
    held = [torch.ones(1000)]
    graph: CudaGraph[Tensor] = CudaGraph("it", "leave it")
    for _ in range(WARM_UP + 1):
        graph((), torch.device("cpu"), lambda: held[0] + 1)
    held[0] = torch.zeros(1000)
    with pytest.raises(RuntimeError, match="no longer anybody's"):
        graph((), torch.device("cpu"), lambda: held[0] + 1)


@pytest.mark.parametrize("of_side_stream", [True, False], ids=["of the side stream", "for the side stream"])
def test_a_wait_that_is_left_out_is_found(
    of_side_stream: bool, graphs_on_host: PlayedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, default = Stream.wait_stream, graphs_on_host.current

    def wait_unless_planted(stream: Stream, other: Stream) -> None:
        if (stream is not default) != of_side_stream:
            wait(stream, other)

    x = torch.zeros(3)
    assert replayed(lambda: x + 1).tolist() == [1] * 3
    monkeypatch.setattr(Stream, "wait_stream", wait_unless_planted)
    x = torch.ones(3)
    graph: CudaGraph[Tensor] = CudaGraph("it", "leave it")
    with pytest.raises(RuntimeError, match="did not wait for the stream that uses it"):
        graph((), torch.device("cpu"), lambda: x + 1).mul_(2)


def test_memory_is_not_overwritten_while_another_stream_reads_it(graphs_on_host: PlayedDevice) -> None:
    x, side = torch.zeros(3), torch.cuda.Stream()
    side.wait_stream(graphs_on_host.current)
    with torch.cuda.stream(side):
        x + 1
    x + 1  # two may read
    with pytest.raises(RuntimeError, match=r"add_.*writes"):
        x.add_(1)
    graphs_on_host.current.wait_stream(side)
    x.add_(1)


def test_a_number_that_was_read_is_there_for_all_streams(graphs_on_host: PlayedDevice) -> None:
    x, side = torch.zeros(3), torch.cuda.Stream()
    x.sum().item()
    with torch.cuda.stream(side):
        x + 1


@pytest.mark.parametrize("is_own", [True, False], ids=["its own", "another"])
def test_captured_work_meets_no_leaf_of_another_stream(is_own: bool, graphs_on_host: PlayedDevice) -> None:
    """As long as somebody holds a result of a leaf, its node belongs to the stream that this was computed on."""
    leaf, held = torch.ones(3, requires_grad=True), []
    graph: CudaGraph[Tensor] = CudaGraph("it", "leave it")

    def function() -> Tensor:
        if is_own:
            held.append(leaf * 2)
        return torch.autograd.grad((leaf**2).sum(), leaf)[0]

    for _ in range(WARM_UP):
        graph((), torch.device("cpu"), function)
    if is_own:
        graph((), torch.device("cpu"), function)
        return
    held.append(leaf * 2)
    with pytest.raises(RuntimeError, match="capture invalidated: the node of a leaf"):
        graph((), torch.device("cpu"), function)

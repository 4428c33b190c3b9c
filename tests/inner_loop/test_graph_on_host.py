"""The player of CUDA graphs itself: what a GPU would not do, it does not do either."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
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

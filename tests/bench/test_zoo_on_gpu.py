"""The zoo on the GPU that the host plays, call by call and as a replayed graph, against the CPU in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from zoo.workload import QUICK, ZooWorkload

from maml_fast import MAML, native, use_engine
from maml_fast.inner_loop._graphed import WARM_UP
from maml_fast.inner_loop._task_forward import TaskForward

pytestmark = pytest.mark.native

ONE_STEP = ("conv4-no-pool", "conv4-5x5", "stem-7x7", "resnet10", "resnet18", "u-net", "wrn-28")  # which are slow


def small(workload: ZooWorkload) -> ZooWorkload:
    few = replace(workload.for_parity().of_tasks(2), most_queries=2)
    return replace(few, most_steps=1) if workload.net in ONE_STEP else few


WORKLOADS = [small(each) for each in QUICK if each.order == 2]

REPLAYED = (
    "conv4",
    "conv4-mse",
    "resnet12",
    "sine-relu",
    "lstm",
    "transformer",
)  # of every family; a replay takes long


@pytest.fixture
def played_gpu(gpu_on_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MAML decide as for tensors on a GPU."""
    monkeypatch.setattr("maml_fast.inner_loop._engines.native_loop", lambda *_: "as on a GPU")
    monkeypatch.setattr(TaskForward, "reason_for_loop", lambda *_: None)
    monkeypatch.setattr(TaskForward, "_obstacle", lambda *_: None)


def result(maml: MAML, workload: ZooWorkload, calls: int = 1) -> list[Tensor]:
    """Loss and meta-gradient of the last call."""
    episodes = workload.episodes(torch.float64)
    for _ in range(calls):
        loss = maml(episodes).loss
        gradients = torch.autograd.grad(loss, list(maml.parameters()), allow_unused=True)
    return [loss.detach(), *(torch.zeros(()) if each is None else each for each in gradients)]


def on_cpu(workload: ZooWorkload) -> list[Tensor]:
    with native.use_backend("reference"), use_engine("loop"):
        return result(workload.learner(workload.start(torch.float64)), workload)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.net)
def test_every_net_gives_the_cpus_numbers(workload: ZooWorkload, request: pytest.FixtureRequest) -> None:
    expected = on_cpu(workload)
    request.getfixturevalue("played_gpu")
    maml = workload.learner(workload.start(torch.float64))
    assert_close(result(maml, workload), expected)
    assert "inner loop: operation by operation (as on a GPU)" in maml.describe()


@pytest.mark.parametrize("workload", [each for each in WORKLOADS if each.net in REPLAYED], ids=lambda each: each.net)
def test_a_graph_gives_them_too(workload: ZooWorkload, request: pytest.FixtureRequest) -> None:
    expected = on_cpu(workload)
    for fixture in ("played_gpu", "graphs_on_host"):
        request.getfixturevalue(fixture)
    maml = workload.learner(workload.start(torch.float64), cuda_graph=True)
    assert_close(result(maml, workload, WARM_UP + 2), expected)
    assert "cuda graph: loss and meta-gradient, replayed" in maml.describe()


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    size = max(float(each.abs().max()) for each in expected[1:])
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-9 * size)

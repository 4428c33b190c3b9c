"""Meta-training on a GPU: as on the CPU, the same every time, and without waiting for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from episode_samplers import ragged_bank
from small import three_way_net
from tiny_run import TINY, assert_same_run
from torch import Tensor

from maml_fast import MAML, Episodes, native
from maml_fast.data._episodes import EpisodeSampler
from maml_fast.inner_loop._gpu_waits import waits_for_gpu
from maml_fast.models import Conv4
from maml_fast.train import resume, train

pytestmark = pytest.mark.native

ITERATIONS = {"cpu": 6, "cuda": 100}  # a host that plays a GPU is slow at it


def episodes(number: int) -> Episodes:
    generator = torch.Generator().manual_seed(number)
    x = torch.rand(2, 4, 6, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.arange(3).repeat(2).expand(4, 6)
    return Episodes(x[0], y, x[1], y)


def trained(device: torch.device, iterations: int, order: int, cuda_graph: bool = False) -> tuple[list[float], Tensor]:
    """Losses, and how far the parameters have come."""
    model = three_way_net().to(device)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    maml = MAML(model, inner_lr=0.1, inner_steps=2, order=order, task_chunk=None, cuda_graph=cuda_graph)
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3)
    losses = []
    for i in range(iterations):
        loss = maml(episodes(i).to(device)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (torch.cat([p.detach().flatten() for p in model.parameters()]) - start).cpu()


@pytest.mark.parametrize("order", [1, 2])
def test_trajectory_of_the_cpu(order: int, gpu_device: torch.device) -> None:
    iterations = ITERATIONS[gpu_device.type]
    losses, way = trained(gpu_device, iterations, order)
    with native.use_backend("reference"):
        expected, expected_way = trained(torch.device("cpu"), iterations, order)
    torch.testing.assert_close(losses, expected, rtol=1e-7, atol=1e-9)
    assert float((way - expected_way).norm() / expected_way.norm()) < 1e-6


@pytest.mark.cuda
@pytest.mark.parametrize("order", [1, 2])
def test_trajectory_of_a_graph(order: int) -> None:
    """Bitwise that of eager calls: the same kernels on the same numbers."""
    cuda = torch.device("cuda")
    eager, replayed = (trained(cuda, ITERATIONS["cuda"], order, cuda_graph) for cuda_graph in (False, True))
    assert eager[0] == replayed[0]
    assert torch.equal(eager[1], replayed[1])


@pytest.mark.cuda
@pytest.mark.parametrize("order", [1, 2])
def test_runs_agree_to_the_bit(order: int) -> None:
    first, second = (trained(torch.device("cuda"), 20, order) for _ in range(2))
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


@pytest.mark.cuda
@pytest.mark.parametrize("order", [1, 2])
def test_nothing_waits_for_the_gpu(order: int) -> None:
    """Neither for episodes nor for inner loops, meta-gradient and Adam."""
    sampler = EpisodeSampler(ragged_bank([20] * 6, (1, 28, 28)), 5, 1, 5, 4, device="cuda")
    maml = MAML(Conv4(), inner_lr=0.4, inner_steps=3, order=order).to("cuda")
    optimizer = torch.optim.Adam(maml.parameters(), fused=True)

    def iterate(i: int) -> None:
        optimizer.zero_grad()
        maml(sampler.batch(i)).loss.backward()
        optimizer.step()

    iterate(0)  # modules may be loaded in the first one
    with waits_for_gpu() as waits:
        iterate(1)
    assert not waits


@pytest.mark.cuda
def test_training_on_a_gpu_can_be_resumed(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, device="cuda")
    train(dataclasses.replace(config, iterations=3), out=tmp_path / "resumed")
    resume(tmp_path / "resumed", iterations=config.iterations)
    train(config, out=tmp_path / "whole")
    assert_same_run(tmp_path / "resumed", tmp_path / "whole")


@pytest.mark.cuda
def test_a_trained_run_comes_again_to_the_bit(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, device="cuda", iterations=20)
    for name in ("one", "other"):
        train(config, out=tmp_path / name)
    assert_same_run(tmp_path / "one", tmp_path / "other")

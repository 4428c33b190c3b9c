"""How many kernels a meta-iteration gives a GPU, counted where the host plays the GPU."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from checkout import TESTS
from launches import TorchKernels

from maml_fast import MAML, Episodes
from maml_fast.models import Conv4

pytestmark = pytest.mark.native

BUDGET = json.loads((TESTS / "csrc" / "cuda" / "budget.json").read_text())["launches"]


def episodes(tasks: int = 1, shots: int = 15) -> Episodes:
    generator = torch.Generator().manual_seed(0)
    x_spt, x_qry = (torch.rand(tasks, 5 * each, 1, 28, 28, generator=generator) for each in (1, shots))
    return Episodes(x_spt, torch.arange(5).repeat(tasks, 1), x_qry, torch.arange(5).repeat(tasks, shots))


@pytest.fixture
def played(gpu_library: Callable[[], int], gpu_on_host: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    monkeypatch.setattr("maml_fast.inner_loop._engines.native_loop", lambda *_: "as on a GPU")
    for name in ("data._checks.check_values", "inner_loop._losses.check_range"):
        monkeypatch.setattr(f"maml_fast.{name}", lambda *_: None)
    return gpu_library


@pytest.mark.parametrize("order", [1, 2])
def test_an_iteration_of_conv4(order: int, played: Callable[[], int]) -> None:
    """Five steps and the queries, with their meta-gradient.

    The numbers do not depend on the number of channels or tasks. They do depend on the images: large sums are split.
    """
    budget = BUDGET[f"order {order}"]
    maml = MAML(Conv4(hidden=8), inner_lr=0.4, inner_steps=5, order=order, task_chunk=None)
    batch = episodes()
    maml(batch, inner_steps=1)  # records the model
    before = played()
    with TorchKernels() as kernels:
        maml(batch).loss.backward()
    ours = played() - before
    assert ours <= budget["ours"]
    assert kernels.counts.total() <= budget["of PyTorch"], kernels.counts


def test_patch_moments_are_computed_once_for_all_steps(played: Callable[[], int]) -> None:
    """Each step more costs the same number of launches, and the first two more for each set of images."""
    launched = []
    for steps in (1, 2, 3):
        maml = MAML(Conv4(hidden=4), inner_lr=0.4, inner_steps=steps, order=1, task_chunk=None)
        maml.adapt(*episodes(shots=1)[:2])  # records the model
        before = played()
        maml.adapt(*episodes(shots=1)[:2])
        launched.append(played() - before)
    first, second, third = launched
    assert third - second == second - first == first - 2

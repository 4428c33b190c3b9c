"""The meta-gradient's bits do not depend on which thread of autograd took the inner gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from maml_fast import MAML, Episodes
from maml_fast.algorithms import MAMLPlusPlus, MetaSGD

CASES: dict[str, Callable[..., MAML]] = {
    "MAML": lambda model, **options: MAML(model, inner_lr=0.4, inner_steps=3, **options),
    "MAML++ with the losses of all steps": lambda model, **options: MAMLPlusPlus(
        model, inner_steps=3, multi_step_iterations=100, first_order_iterations=0, **options
    ),
    "Meta-SGD": lambda model, **options: MetaSGD(model, inner_lr=0.1, inner_steps=3, **options),
}


def meta_gradient(make: Callable[..., MAML], task_chunk: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    blocks = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    maml = make(nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 3)), task_chunk=task_chunk)
    x = torch.rand(2, 4, 6, 1, 8, 8)
    y = torch.arange(3).repeat(2).expand(4, 6)
    maml.begin_iteration(1)
    maml(Episodes(x[0], y, x[1], y)).loss.backward()
    return [parameter.grad for parameter in maml.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("task_chunk", [None, 2])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_bits_are_those_of_one_thread(
    make: Callable[..., MAML], task_chunk: int | None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maml_fast.inner_loop._engines.native_loop", lambda *_: "as on a GPU")
    expected = meta_gradient(make, task_chunk)
    request.getfixturevalue("device_thread")
    assert all(map(torch.equal, meta_gradient(make, task_chunk), expected))

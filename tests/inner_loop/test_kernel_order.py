"""The filters of fused blocks lie in memory as the native kernels read them, through all inner steps."""

from __future__ import annotations

import pytest
import torch
from small import make_episodes
from torch import nn

from maml_fast import MAML, use_backend, use_engine
from maml_fast.inner_loop._task_forward import TaskForward
from maml_fast.nn import ConvBlock
from maml_fast.program import Program


class Net(nn.Module):
    """Two fused blocks, one of them called twice, and layers that do not fuse."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.block = ConvBlock(4, 4, pool=None)
        self.again = self.block
        self.plain = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.again(self.block(self.stem(x)))
        return self.head(self.plain(x.mean(dim=(2, 3))))


def lies_in_kernel_order(filters):
    """[Cout, Cin, k, k], in memory [k, k, Cin, Cout]."""
    return filters.dim() == 4 and filters.permute(2, 3, 1, 0).is_contiguous()


@pytest.mark.native
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_filters_of_blocks_keep_the_order(steps, order):
    episodes = make_episodes()
    fast = MAML(Net().double(), inner_lr=0.1, order=order).adapt(*episodes[:2], inner_steps=steps)
    blocks = {"stem.0.weight", "block.conv.weight"}
    assert {name for name, weight in fast.items() if lies_in_kernel_order(weight[0])} == blocks
    for name, weight in fast.items():
        assert weight.stride(0) == (weight[0].numel() if steps else 0)
        assert name in blocks or weight[0].is_contiguous()


@pytest.mark.native
def test_shared_filters_too(monkeypatch):
    shared, run = [], Program.__call__
    monkeypatch.setattr(Program, "__call__", lambda *args, **options: shared.append(args[2]) or run(*args, **options))
    maml = MAML(Net().double(), inner_lr=0.1, adapted="head", task_chunk=None)
    episodes = make_episodes()
    with use_engine("batched"):
        maml.engine_for(episodes)
        shared.clear()
        maml(episodes)
    assert len(shared) == 2
    for each in shared:
        assert lies_in_kernel_order(each["stem.0.weight"])
        assert each["plain.weight"].is_contiguous()


def in_kernel_order(model):
    forward = TaskForward(model, "batch", fused=True)
    programs = forward.programs(make_episodes().x_spt)
    return forward.in_kernel_order(dict(model.named_parameters()), programs)


def test_the_reference_takes_parameters_as_they_are():
    model = Net().double()
    with use_backend("reference"):
        laid_out = in_kernel_order(model)
    assert all(laid_out[name] is parameter for name, parameter in model.named_parameters())


@pytest.mark.native
def test_order_is_differentiable_and_changes_no_value():
    model = Net().double()
    laid_out = in_kernel_order(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(laid_out[name], parameter)
    weight = model.stem[0].weight
    (gradient,) = torch.autograd.grad(laid_out["stem.0.weight"].pow(3).sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), weight)
    torch.testing.assert_close(second, 6 * weight)

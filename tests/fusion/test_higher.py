"""Copies of a fused model that higher makes: the results of higher's own loop, on fused operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fuse_nets import SharedTwice
from small import make_episodes
from torch import nn

import maml_fast as mf
from maml_fast import ops

higher = pytest.importorskip("higher")

STEPS = 2


class InParts(nn.Module):
    """A fused part within a larger net, after a layer of its own."""

    def __init__(self, fused: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(8, 5)
        self.body = mf.fuse(body(), batch_norm="as_written") if fused else body()

    def forward(self, x):
        return self.head(self.body(self.scale * x).mean((2, 3)))


def body() -> nn.Sequential:
    blocks = [(nn.Conv2d(c, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)) for c in (1, 8)]
    return nn.Sequential(*(layer for block in blocks for layer in block))


def whole(fused: bool) -> nn.Module:
    net = nn.Sequential(body(), nn.Flatten(), nn.Linear(32, 5))
    return mf.fuse(net, batch_norm="as_written") if fused else net


NETS = {"whole": whole, "in parts": InParts}


def make(kind: str, fused: bool) -> nn.Module:
    torch.manual_seed(0)
    return NETS[kind](fused).double()


@pytest.fixture
def fused_calls(monkeypatch):
    """One entry for every fused operation that ran and kept running statistics."""
    calls = []

    def counting(*args, run=ops.conv_block_with_statistics, **kwargs):
        calls.append(None)
        return run(*args, **kwargs)

    monkeypatch.setattr(ops, "conv_block_with_statistics", counting)
    return calls


def losses(net, tracked=True):
    """higher's documented loop; the gradients go to the net."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    found = []
    for x_spt, y_spt, x_qry, y_qry in zip(*make_episodes(), strict=True):
        options = {"copy_initial_weights": False, "track_higher_grads": tracked}
        with higher.innerloop_ctx(net, optimizer, **options) as (patched, inner):
            for _ in range(STEPS):
                inner.step(F.cross_entropy(patched(x_spt), y_spt))
            loss = F.cross_entropy(patched(x_qry), y_qry)
            loss.backward()
            found.append(loss.detach())
    return torch.stack(found)


@pytest.mark.parametrize("kind", NETS)
def test_inner_loop_has_the_results_of_the_plain_net(kind, fused_calls):
    plain, fused = make(kind, False), make(kind, True)
    losses(make(kind, True))  # records
    fused_calls.clear()
    torch.testing.assert_close(losses(fused), losses(plain), rtol=1e-12, atol=0)
    assert len(fused_calls) >= 3 * (STEPS + 1) * 2
    scale = max(parameter.grad.norm() for parameter in plain.parameters())
    for (name, parameter), wanted in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert (parameter.grad - wanted.grad).norm() <= 1e-11 * scale, name
    for buffer, wanted in zip(fused.buffers(), plain.buffers(), strict=True):
        assert torch.equal(buffer, wanted)


def test_losses_without_higher_gradients_are_the_same_too():
    torch.testing.assert_close(losses(make("whole", True), False), losses(make("whole", False), False))


@pytest.mark.parametrize("kind", NETS)
def test_a_call_takes_other_parameters(kind):
    x = make_episodes().x_spt[0]
    outputs = []
    for fused in (False, True):
        patched = higher.monkeypatch(make(kind, fused))
        outputs.append(patched(x, params=[1.1 * each for each in patched.parameters()]))
        outputs.append(patched(x))
    for plain, found in zip(outputs[:2], outputs[2:], strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


def test_a_copy_has_its_own_mode_and_statistics():
    net = make("whole", True)
    x = make_episodes().x_spt[0]
    before = net.original[0][1].running_mean.clone()
    patched = higher.monkeypatch(net)
    patched(x)
    assert torch.equal(net.original[0][1].running_mean, before)
    outside = patched.eval()(x)
    assert net.training
    assert all(module.training for module in net.modules())
    torch.testing.assert_close(patched(x), outside, rtol=0, atol=0)
    assert not higher.monkeypatch(net.eval()).training


def test_a_layer_with_two_names_runs_as_written():
    outputs = []
    for wrap in (lambda net: net, mf.fuse):
        torch.manual_seed(0)
        net = wrap(SharedTwice().double())
        x = torch.randn(6, 2, 9, 9, generator=torch.Generator().manual_seed(0)).double()
        outputs.append(higher.monkeypatch(net)(x))
    torch.testing.assert_close(*outputs)
    assert "layer twice" in str(net.report)

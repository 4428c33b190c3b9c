"""Nets drawn at random from the operations that have a native form, against the plain loop.

``MAML_FAST_RANDOM_NETS`` says how many.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_against_loop import CLASSES, assert_native_is_right, episodes_of
from torch import Tensor, nn

pytestmark = pytest.mark.native

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Mish, nn.Identity)


class Residual(nn.Module):
    """x + body(x), through a 1x1 convolution where the channels differ."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


@st.composite
def nets(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A net, and the shape of its inputs: images, series or vectors."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    rank = draw(st.integers(0, 2))
    channels = draw(st.integers(1, 5))
    shape = (channels, *(draw(st.integers(5, 9)) for _ in range(rank)))
    sizes = shape[1:]
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        out = draw(st.integers(1, 9))
        layers.append(_mixing(draw, rank, channels, out))
        channels = out
        layers.append(_norm(draw, rank, channels))
        layers.append(draw(st.sampled_from(ACTIVATIONS))())
        pools = _pools(rank)
        if pools and min(sizes) >= 4 and draw(st.booleans()):
            layers.append(draw(st.sampled_from(pools))(2))
            sizes = tuple(size // 2 for size in sizes)
    with torch.no_grad():
        features = nn.Sequential(*layers, nn.Flatten())(torch.randn(3, *shape)).shape[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES)).double(), shape


def _mixing(draw: st.DrawFn, rank: int, channels: int, out: int) -> nn.Module:
    """A layer that mixes channels."""
    if rank == 0:
        return nn.Linear(channels, out, bias=draw(st.booleans()))
    conv: type[nn.Conv1d] | type[nn.Conv2d] = (nn.Conv1d, nn.Conv2d)[rank - 1]
    kernel = draw(st.sampled_from([1, 3]))
    layer = conv(channels, out, kernel, padding="same", bias=draw(st.booleans()), dilation=draw(st.integers(1, 2)))
    if not draw(st.booleans()):
        return layer
    return Residual(layer, nn.Identity() if channels == out else conv(channels, out, 1))


def _norm(draw: st.DrawFn, rank: int, channels: int) -> nn.Module:
    of_batch = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[rank](channels)
    groups = draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0]))
    choices = [of_batch, nn.GroupNorm(groups, channels, affine=draw(st.booleans())), nn.Identity()]
    if rank == 0 and channels == groups:  # of one number a group: constant
        choices.pop(1)
    return draw(st.sampled_from(choices))


def _pools(rank: int) -> list[type[nn.Module]]:
    return [[], [nn.MaxPool1d, nn.AvgPool1d], [nn.MaxPool2d, nn.AvgPool2d]][rank]


@settings(
    max_examples=int(os.environ.get("MAML_FAST_RANDOM_NETS", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(nets(), st.sampled_from([4, 4, 30]))
def test_any_net_equals_the_plain_loop(drawn: tuple[nn.Module, tuple[int, ...]], images: int) -> None:
    """With few images, which are all in cache at the same time, or with many."""
    net, shape = drawn
    assert_native_is_right(net, episodes_of(*shape, support=images))

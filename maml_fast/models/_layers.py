"""Layers that several networks share."""

from __future__ import annotations

from torch import nn

__all__ = ["conv3x3", "zero_bias"]


def conv3x3(in_channels: int, out_channels: int, *, stride: int, padding: int, bias: bool = True) -> nn.Conv2d:
    """Return a 3x3 convolution with uninitialized parameters."""
    return nn.utils.skip_init(nn.Conv2d, in_channels, out_channels, 3, stride=stride, padding=padding, bias=bias)


def zero_bias(module: nn.Module) -> None:
    nn.init.zeros_(module.get_parameter("bias"))

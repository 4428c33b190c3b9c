"""Layers that several networks are made of."""

from __future__ import annotations

from torch import nn

__all__ = ["conv3x3", "zero_bias"]


def conv3x3(in_channels: int, out_channels: int, *, stride: int, padding: int) -> nn.Module:
    """A 3x3 convolution whose initial values are yet to be drawn."""
    return nn.utils.skip_init(nn.Conv2d, in_channels, out_channels, 3, stride=stride, padding=padding)


def zero_bias(module: nn.Module) -> None:
    """Set the bias of a layer to zero."""
    nn.init.zeros_(module.get_parameter("bias"))

"""How a tensor of PyTorch lies in a buffer: PyTorch's own strides, without the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NotNativeError", "View", "channels_last", "dense", "identity"]


class NotNativeError(Exception):
    """An operation has no native form; the message says which and why."""


class View(NamedTuple):
    """A tensor of one task.

    buffer: where its numbers are.
    tensor: on the meta device: its shape, and its strides and offset in the buffer.
    """

    buffer: int
    tensor: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        return self.tensor.shape

    def map(self, function: Callable[[Tensor], Tensor]) -> View:
        """The view that a function of PyTorch makes of it."""
        return View(self.buffer, function(self.tensor))

    def lies(self, order: Sequence[int], size: int) -> bool:
        """Whether it is all of a buffer of so many numbers, its dimensions in this order from the outermost on."""
        if self.tensor.storage_offset() != 0 or self.tensor.numel() != size:
            return False
        strides = [(self.shape[dim], self.tensor.stride(dim)) for dim in order if self.shape[dim] > 1]
        expected = 1
        for length, stride in reversed(strides):
            if stride != expected:
                return False
            expected *= length
        return True


def dense(buffer: int, shape: Sequence[int], order: Sequence[int]) -> View:
    """All of a buffer, its dimensions in this order from the outermost on."""
    strides, expected = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = expected
        expected *= shape[dim]
    return View(buffer, torch.empty_strided(tuple(shape), strides, device="meta"))


def identity(rank: int) -> tuple[int, ...]:
    """The order in which PyTorch makes tensors."""
    return tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    """[N, C, ...] with the channels of a pixel side by side."""
    return (0, *range(2, rank), 1) if rank > 1 else identity(rank)

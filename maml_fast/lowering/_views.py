"""Describes how a tensor lies in a buffer, by PyTorch's own strides and without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NotNativeError", "View", "channels_last", "dense", "identity"]


class NotNativeError(Exception):
    """An operation has no native form; the message says which one and why."""


class View(NamedTuple):
    """A tensor of one task.

    buffer: the buffer that holds its values.
    tensor: a meta tensor with its shape, and with its strides and offset in the buffer.
    """

    buffer: int
    tensor: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def map(self, function: Callable[[Tensor], Tensor]) -> View:
        """Apply a PyTorch function that returns a view; the result lies in the same buffer."""
        return View(self.buffer, function(self.tensor))

    def is_contiguous(self, order: Sequence[int], size: int) -> bool:
        """Whether the view covers a buffer of ``size`` elements, with its dimensions in ``order``, outermost first."""
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
    """A view of a whole buffer, with its dimensions in ``order``, outermost first."""
    strides, expected = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = expected
        expected *= shape[dim]
    return View(buffer, torch.empty_strided(tuple(shape), strides, device="meta"))


def identity(rank: int) -> tuple[int, ...]:
    """PyTorch's default memory order of dimensions."""
    return tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    """The memory order of [N, C, ...] in which the channels of a pixel are adjacent."""
    return (0, *range(2, rank), 1) if rank > 1 else identity(rank)

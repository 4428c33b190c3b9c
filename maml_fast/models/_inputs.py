"""Checks of the networks' inputs."""

from __future__ import annotations

import math

from torch import Tensor

from maml_fast._arguments import tensor

__all__ = ["checked_images", "checked_sequences", "checked_vectors"]


def checked_images(x: Tensor, channels: int, size: int) -> Tensor:
    """Return x [B, channels, size, size]; raise ValueError if it has another shape."""
    if tensor("x", x).dim() != 4 or tuple(x.shape[1:]) != (channels, size, size):
        raise ValueError(
            f"the model was made for images [B, {channels}, {size}, {size}], got {list(x.shape)}; "
            f"resize the images, or give the model their in_channels and image_size"
        )
    return x


def checked_vectors(x: Tensor, features: int) -> Tensor:
    """Return x [B, ...] as [B, features]; raise ValueError if it has another number of features."""
    if tensor("x", x).dim() < 2 or math.prod(x.shape[1:]) != features:
        raise ValueError(f"the model was made for inputs [B, ...] of {features} features each, got {list(x.shape)}")
    return x.flatten(1)


def checked_sequences(x: Tensor, features: int) -> Tensor:
    """Return x [N, L, features] with L > 0; raise ValueError if it has another shape."""
    if tensor("x", x).dim() != 3 or x.shape[1] == 0 or x.shape[2] != features:
        raise ValueError(
            f"the model was made for sequences [N, L, {features}] of at least one step, got {list(x.shape)}; "
            f"put the batch first and the steps second, or give the model its inputs"
        )
    return x

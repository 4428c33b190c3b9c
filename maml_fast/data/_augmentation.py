"""The NumPy counterpart of ``csrc/sampler/augment.cpp``: random crops, flips and color jitter, in integers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maml_fast.data._philox import below

__all__ = ["ONE", "Augmentation", "augmented"]

ONE = 4096  # a factor of 1: factors are multiples of 1/4096
_FACTOR_BITS = 12
_LEVEL_BITS = 6  # levels are multiples of 1/64 of a byte's unit
_GRAY = np.array([77, 150, 29])  # shares of red, green and blue in gray (ITU-R BT.601), in 256ths


class Augmentation(NamedTuple):
    """How images may change.

    Attributes:
        crop_padding: how far a crop may move beyond the image, in pixels; there it repeats the image's border.
        flip: whether to flip every other image left to right, at random.
        jitter: factors of brightness, contrast and saturation are at most this far from 1, in 4096ths.
    """

    crop_padding: int = 0
    flip: bool = False
    jitter: int = 0


def augmented(
    images: np.ndarray, by: Augmentation, seed: int, episodes: np.ndarray, stream: int, items: np.ndarray
) -> np.ndarray:
    """Return the images ``[T, B, C, H, W]``, uint8, as episodes ``[T]`` change their items ``[T, B]``."""

    def around(number: int, reach: int) -> np.ndarray:
        """Draw numbers from -reach to reach, ``[T, B]``."""
        return below(seed, episodes[:, None], stream + number, items, 2 * reach + 1) - reach

    changed = images
    if by.crop_padding:
        changed = _cropped(images, around(0, by.crop_padding), around(1, by.crop_padding))
    if by.flip:
        flips = below(seed, episodes[:, None], stream + 2, items, 2) == 1
        changed = np.where(flips[..., None, None, None], changed[..., ::-1], changed)
    if by.jitter:
        brightness, contrast, saturation = (
            (ONE + around(number, by.jitter))[..., None, None, None] for number in (3, 4, 5)
        )
        changed = _jittered(changed, _mean_gray(images), brightness, contrast, saturation)
    return changed


def _cropped(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    height, width = images.shape[-2:]
    y = np.clip(rows[..., None] + np.arange(height), 0, height - 1)  # [T, B, H]
    x = np.clip(columns[..., None] + np.arange(width), 0, width - 1)  # [T, B, W]
    images = np.take_along_axis(images, y[:, :, None, :, None], axis=3)
    return np.take_along_axis(images, x[:, :, None, None, :], axis=4)


def _mean_gray(images: np.ndarray) -> np.ndarray:
    """Return the mean gray of each image, as a level, ``[T, B, 1, 1, 1]``."""
    channels, height, width = images.shape[2:]
    sums = images.sum(axis=(3, 4), dtype=np.int64)  # [T, B, C]
    if channels == 3:
        means = (sums * _GRAY).sum(axis=2) // (4 * height * width)
    else:
        means = (sums.sum(axis=2) << _LEVEL_BITS) // (channels * height * width)
    return means[..., None, None, None]


def _jittered(
    images: np.ndarray, means: np.ndarray, brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray
) -> np.ndarray:
    """Change contrast, then brightness, then saturation; the factors are ``[T, B, 1, 1, 1]``."""
    levels = _away(images.astype(np.int64) << _LEVEL_BITS, means, contrast)
    levels = (brightness * levels) >> _FACTOR_BITS
    if images.shape[2] == 3:
        gray = (levels * _GRAY[:, None, None]).sum(axis=2, keepdims=True) >> 8
        levels = _away(levels, gray, saturation)
    return np.clip((levels + (1 << (_LEVEL_BITS - 1))) >> _LEVEL_BITS, 0, 255).astype(np.uint8)


def _away(levels: np.ndarray, centers: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the levels that are ``factors`` times as far from their centers."""
    return (factors * levels + (ONE - factors) * centers) >> _FACTOR_BITS

"""Pictures as tensors: what torchvision's transforms do, without torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from maml_fast.compat.learn2learn.vision.datasets import FullOmniglot

__all__ = ["OmniglotPixels", "lee2019", "same", "to_tensor", "unit"]


def to_tensor(image: Image.Image) -> Tensor:
    """Return a picture as a float tensor [C, H, W] from 0 to 1."""
    pixels = torch.from_numpy(np.array(image))
    channels_first = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
    return channels_first.to(torch.get_default_dtype()).div(255)


def unit(image: Tensor) -> Tensor:
    """Scale an image from 0..255 to 0..1."""
    return image / 255.0


def same(image: Any) -> Any:
    """Return an image as it is."""
    return image


class OmniglotPixels(Dataset[Any]):
    """Omniglot as white ink on black, float [1, 28, 28] from 0 to 1.

    Drawings are resized with Pillow's Lanczos filter when they are first read, and kept as bytes: 25 MB in all.
    """

    def __init__(self, omniglot: FullOmniglot) -> None:
        self._omniglot = omniglot
        self._pixels: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if index not in self._pixels:
            small = self._omniglot.read_image(index).resize((28, 28), Image.Resampling.LANCZOS)
            self._pixels[index] = torch.from_numpy(np.array(small))[None]
        paper = self._pixels[index].to(torch.get_default_dtype()).div(255)
        return 1.0 - paper, self._omniglot.labels[index]

    def __len__(self) -> int:
        return len(self._omniglot)

    def labels_of_samples(self) -> list[Any]:
        """Return the labels of all drawings."""
        return self._omniglot.labels_of_samples()


def lee2019(to_picture: bool, to_pixels: bool) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the augmentation of Lee et al. 2019 for training, and the transform for testing.

    Args:
        to_picture: whether the augmentation begins with a tensor.
        to_pixels: whether the transform for testing begins with a picture.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        from torchvision import transforms as tv
    except ImportError as error:
        raise ImportError("data_augmentation='lee2019' needs torchvision: pip install torchvision") from error
    normalize = tv.Normalize(
        mean=[120.39586422 / 255.0, 115.59361427 / 255.0, 104.54012653 / 255.0],
        std=[70.68188272 / 255.0, 68.27635443 / 255.0, 72.54505529 / 255.0],
    )
    augment = [
        tv.RandomCrop(84, padding=8),
        tv.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        tv.RandomHorizontalFlip(),
        tv.ToTensor(),
        normalize,
    ]
    of_training = tv.Compose([tv.ToPILImage(), *augment] if to_picture else augment)
    return of_training, tv.Compose([to_tensor, normalize] if to_pixels else [normalize])

"""Mini-ImageNet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_fast.compat.learn2learn.vision.datasets._image_set import PartedImageSet
from maml_fast.data._safe_pickle import read_pickle

__all__ = ["MiniImagenet"]


class MiniImagenet(PartedImageSet):
    """Mini-ImageNet (Ravi & Larochelle 2017) as float tensors [3, 84, 84] from 0 to 255.

    The root holds ``mini-imagenet-cache-{train,validation,test}.pkl``, which learn2learn left there, or a layout of
    ``maml_fast.data.load("mini-imagenet", root)``. No code in the files is run. ``target_transform`` is called, which
    learn2learn's class forgets.

    Attributes:
        x: all images, float [N, 3, 84, 84], which is a new tensor every time.
        y: all labels, [N].
    """

    bank, files = "mini-imagenet", "mini-imagenet-cache-{mode}.pkl"

    def read_files(self, path: Path) -> tuple[Any, Iterable[int]]:
        """Return the images [N, C, H, W] of a cache."""
        return _of_cache(path) if path.is_file() else ([], [])

    def image_of_stored(self, stored: np.ndarray) -> Tensor:
        """Return an image of a cache."""
        return self.image_of_pixels(stored)

    def image_of_pixels(self, pixels: np.ndarray) -> Tensor:
        """Return an image, float [3, 84, 84]."""
        return torch.from_numpy(pixels).float()

    @property
    def x(self) -> Tensor:
        """All images."""
        return self.image_of_pixels(self.images)

    @property
    def y(self) -> np.ndarray:
        """All labels."""
        return np.asarray(self.labels)


def _of_cache(path: Path) -> tuple[np.ndarray, list[int]]:
    """Return images [N, C, H, W] and labels, in the order of the file."""
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not {"image_data", "class_dict"} <= content.keys():
        raise ValueError(f"{path} is not a dict of image_data and class_dict; remove it and fetch it again")
    images, classes = content["image_data"], content["class_dict"]
    labels = np.full(len(images), -1)
    for label, numbers in enumerate(classes.values()):
        labels[np.asarray(numbers)] = label
    if (labels < 0).any():
        raise ValueError(f"{path}: image {labels.argmin()} is in no class; remove the file and fetch it again")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.tolist()

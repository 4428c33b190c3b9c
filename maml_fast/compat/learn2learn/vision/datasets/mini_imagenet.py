"""Mini-ImageNet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_fast._arguments import flag, takes
from maml_fast.compat.learn2learn.vision.datasets._image_set import MODE, ImageSet, folder, images_of_banks
from maml_fast.data._safe_pickle import read_pickle

__all__ = ["MiniImagenet"]


class MiniImagenet(ImageSet):
    """Mini-ImageNet (Ravi & Larochelle 2017) as float tensors [3, 84, 84] from 0 to 255.

    Args:
        root: a folder that holds ``mini-imagenet-cache-{train,validation,test}.pkl``, which learn2learn left there, or
            a layout of ``maml_fast.data.load("mini-imagenet", root)``. No code in the files is run.
        mode: "train", "validation" or "test".
        transform: called with every image.
        target_transform: called with its label, which learn2learn's class forgets.
        download: has no effect: nothing is downloaded.

    Attributes:
        x: all images, float [N, 3, 84, 84], which is a new tensor every time.
        y: all labels, [N].

    Raises:
        FileNotFoundError: the data are missing.
        ValueError: a file is damaged, or there is no such mode.
    """

    @takes(mode=MODE, download=flag)
    def __init__(
        self,
        root: str | os.PathLike[str],
        mode: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
    ) -> None:
        self.root = folder(root)
        self.mode = mode
        cache = self.root / f"mini-imagenet-cache-{mode}.pkl"
        if cache.is_file():
            pixels, labels = _of_cache(cache)
        else:
            pixels, labels = images_of_banks("mini-imagenet", self.root, mode, cache.name)
        self._pixels = torch.from_numpy(np.array(pixels))
        super().__init__(labels, transform, target_transform)

    @property
    def x(self) -> Tensor:
        """All images."""
        return self._pixels.float()

    @property
    def y(self) -> np.ndarray:
        """All labels."""
        return np.asarray(self.labels)

    def read_image(self, index: int) -> Tensor:
        """Return an image, float [3, 84, 84]."""
        return self._pixels[index].float()


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
    return images.transpose(0, 3, 1, 2), labels.tolist()

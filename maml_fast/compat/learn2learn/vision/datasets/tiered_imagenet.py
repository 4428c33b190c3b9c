"""Tiered-ImageNet."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from maml_fast._arguments import flag, takes
from maml_fast.compat.learn2learn.vision.datasets._image_set import (
    MODE,
    PARTS,
    ImageSet,
    folder,
    images_of_banks,
    picture,
)
from maml_fast.data._safe_pickle import read_pickle

__all__ = ["TieredImagenet"]


class TieredImagenet(ImageSet):
    """Tiered-ImageNet (Ren et al. 2018) as pictures of 84x84 pixels.

    Args:
        root: a folder that holds ``tiered-imagenet/{train,val,test}_images_png.pkl`` and ``_labels.pkl``, which
            learn2learn left there, or a layout of ``maml_fast.data.load("tiered-imagenet", root)``. No code in the
            files is run.
        mode: "train", "validation" or "test".
        transform: called with every picture.
        target_transform: called with its label.
        download: has no effect: nothing is downloaded.

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
        files = self.root / "tiered-imagenet" / f"{PARTS[mode]}_images_png.pkl"
        self.images: Any
        if files.is_file():
            self.images = read_pickle(files)
            labels = read_pickle(files.with_name(f"{PARTS[mode]}_labels.pkl"))["label_specific"]
            self._picture: Callable[[np.ndarray], Image.Image] = _encoded
        else:
            self.images, labels = images_of_banks("tiered-imagenet", self.root, mode, f"tiered-imagenet/{files.name}")
            self._picture = picture
        super().__init__([int(label) for label in labels], transform, target_transform)

    def read_image(self, index: int) -> Image.Image:
        """Return a picture."""
        return self._picture(self.images[index])


def _encoded(png: np.ndarray) -> Image.Image:
    return Image.open(io.BytesIO(png.tobytes()))

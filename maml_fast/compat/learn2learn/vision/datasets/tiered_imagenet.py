"""Tiered-ImageNet."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maml_fast.compat.learn2learn.vision.datasets._image_set import PartedImageSet
from maml_fast.data._safe_pickle import read_pickle

__all__ = ["TieredImagenet"]


class TieredImagenet(PartedImageSet):
    """Tiered-ImageNet (Ren et al. 2018) as pictures of 84x84 pixels.

    The root holds ``tiered-imagenet/{train,val,test}_images_png.pkl`` and ``_labels.pkl``, which learn2learn left
    there, or a layout of ``maml_fast.data.load("tiered-imagenet", root)``. No code in the files is run.
    """

    bank, files = "tiered-imagenet", "tiered-imagenet/{part}_images_png.pkl"

    def read_files(self, path: Path) -> tuple[Any, Iterable[int]]:
        """Return the encoded images of a pickle."""
        if not path.is_file():
            return [], []
        labels = path.with_name(path.name.replace("images_png", "labels"))
        return read_pickle(path), read_pickle(labels)["label_specific"]

    def image_of_stored(self, stored: np.ndarray) -> Image.Image:
        """Return the picture of a PNG file's bytes."""
        return Image.open(io.BytesIO(stored.tobytes()))

"""CIFAR-FS."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
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

__all__ = ["CIFARFS"]

_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


class CIFARFS(ImageSet):
    """CIFAR-FS (Bertinetto et al. 2019) as pictures of 32x32 pixels.

    Args:
        root: a folder that holds ``cifarfs/processed/{train,val,test}`` or ``cifarfs/cifar100``, which learn2learn left
            there, or a layout of ``maml_fast.data.load("cifar-fs", root)``.
        mode: "train", "validation" or "test".
        transform: called with every picture.
        target_transform: called with its label.
        download: has no effect: nothing is downloaded.

    Attributes:
        classes: the names of the classes, sorted.
        samples: path and label of every picture, if they are files.

    Raises:
        FileNotFoundError: the data are missing.
        ValueError: there is no such mode.
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
        class_folders = _class_folders(self.root / "cifarfs", PARTS[mode])
        self.classes = [each.name for each in class_folders]
        self.samples = [(path, label) for label, each in enumerate(class_folders) for path in _pictures(each)]
        labels: Sequence[int] = [label for _, label in self.samples]
        self._pixels: np.ndarray | None = None
        if not labels:
            self._pixels, labels = images_of_banks("cifar-fs", self.root, mode, "cifarfs/processed or cifarfs/cifar100")
        super().__init__(labels, transform, target_transform)

    def read_image(self, index: int) -> Image.Image:
        """Return a picture."""
        if self._pixels is not None:
            return picture(self._pixels[index])
        with self.samples[index][0].open("rb") as file:
            return Image.open(file).convert("RGB")


def _class_folders(top: Path, part: str) -> list[Path]:
    """Return the folders of a part's classes: as learn2learn copied them, or by the lists that it copied them by."""
    if (copied := top / "processed" / part).is_dir():
        return sorted(path for path in copied.iterdir() if path.is_dir())
    names = top / "cifar100" / "splits" / "bertinetto" / f"{part}.txt"
    if not names.is_file():
        return []
    return sorted(top / "cifar100" / "data" / name for name in names.read_text(encoding="utf8").split())


def _pictures(top: Path) -> list[Path]:
    return sorted(path for path in top.rglob("*") if path.suffix.lower() in _PICTURES)

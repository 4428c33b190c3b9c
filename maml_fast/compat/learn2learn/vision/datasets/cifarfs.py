"""CIFAR-FS."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from maml_fast.compat.learn2learn.vision.datasets._image_set import PARTS, PartedImageSet

__all__ = ["CIFARFS"]

_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


class CIFARFS(PartedImageSet):
    """CIFAR-FS (Bertinetto et al. 2019) as pictures of 32x32 pixels.

    The root holds ``cifarfs/processed/{train,val,test}`` or ``cifarfs/cifar100``, which learn2learn left there, or a
    layout of ``maml_fast.data.load("cifar-fs", root)``.

    Attributes:
        classes: the names of the classes, sorted; none if the images come from ``maml_fast.data.load``.
        samples: path and label of every picture, likewise.
    """

    bank, files = "cifar-fs", "cifarfs"

    def read_files(self, path: Path) -> tuple[Any, Iterable[int]]:
        """Return the paths of the pictures in the folders of the classes."""
        class_folders = _class_folders(path, PARTS[self.mode])
        self.classes = [each.name for each in class_folders]
        self.samples = [(found, label) for label, each in enumerate(class_folders) for found in _pictures(each)]
        return [found for found, _ in self.samples], [label for _, label in self.samples]

    def image_of_stored(self, stored: Path) -> Image.Image:
        """Return the picture of a file."""
        with stored.open("rb") as file:
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

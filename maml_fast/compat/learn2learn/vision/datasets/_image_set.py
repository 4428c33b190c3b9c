"""The base class of data sets of images, and their places on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from maml_fast._arguments import choice, flag, function, location, optional, takes
from maml_fast.data import ImageBank, load

__all__ = ["PARTS", "ImageSet", "PartedImageSet", "folder"]

PARTS = {"train": "train", "validation": "val", "test": "test"}  # the modes, and maml_fast's names of the parts
MODE = choice(*PARTS)


class ImageSet(Dataset[Any]):
    """Images and labels; the images are read one by one.

    Args:
        labels: the label of every image.
        transform: called with every image that is read.
        target_transform: called with its label.
    """

    def __init__(
        self,
        labels: Sequence[int],
        transform: Callable[[Any], Any] | None,
        target_transform: Callable[[Any], Any] | None,
    ) -> None:
        self.labels = labels
        self.transform = optional(function())("transform", transform)
        self.target_transform = optional(function())("target_transform", target_transform)

    def read_image(self, index: int) -> Any:
        """Return an image, before any transform."""
        raise NotImplementedError

    def labels_of_samples(self) -> list[Any]:
        """Return the labels of all samples, without reading an image."""
        change = self.target_transform
        return [label if change is None else change(label) for label in self.labels]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        label = self.labels[index]  # ends an iteration by IndexError
        image = self.read_image(index)
        return (
            image if self.transform is None else self.transform(image),
            label if self.target_transform is None else self.target_transform(label),
        )

    def __len__(self) -> int:
        return len(self.labels)


class PartedImageSet(ImageSet):
    """The images of one part: of the files that learn2learn leaves, or else of ``maml_fast.data.load``.

    Args:
        root: the folder of the data.
        mode: the part: "train", "validation" or "test".
        transform: called with every image.
        target_transform: called with its label.
        download: has no effect: nothing is downloaded.

    Attributes:
        images: all images, as they are stored.

    Raises:
        FileNotFoundError: the data are missing.
        ValueError: a file is damaged, or there is no such mode.
    """

    bank: ClassVar[str]  # the name for maml_fast.data.load
    files: ClassVar[str]  # what learn2learn leaves in the root, with {mode} or {part} in its name
    images: Any

    @takes(mode=MODE, download=flag)
    def __init__(
        self,
        root: str | os.PathLike[str],
        mode: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
    ) -> None:
        self.root, self.mode = folder(root), mode
        wanted = self.files.format(mode=mode, part=PARTS[mode])
        self._image_of: Callable[[Any], Any] = self.image_of_stored
        self.images, labels = self.read_files(self.root / wanted)
        if not len(self.images):
            self._image_of = self.image_of_pixels
            self.images, labels = _images_of_banks(self.bank, self.root, mode, wanted)
        super().__init__([int(label) for label in labels], transform, target_transform)

    def read_files(self, path: Path) -> tuple[Any, Iterable[int]]:
        """Return the images that learn2learn left, as they are stored, and their labels; nothing if there are none."""
        raise NotImplementedError

    def image_of_stored(self, stored: Any) -> Any:
        """Return an image that :meth:`read_files` found."""
        raise NotImplementedError

    def image_of_pixels(self, pixels: np.ndarray) -> Any:
        """Return an image of pixels, uint8 [C, H, W]."""
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    def read_image(self, index: int) -> Any:
        """Return an image."""
        return self._image_of(self.images[index])


def folder(root: str | os.PathLike[str]) -> Path:
    """Return the root of a data set; ``~`` is the home folder."""
    path: Path = location("root", root)
    return path.expanduser()


def _images_of_banks(name: str, root: Path, mode: str, wanted: str) -> tuple[np.ndarray, list[int]]:
    """Read one of the layouts of :func:`maml_fast.data.load` from ``root``, or from its folder of that name.

    Returns:
        The images, uint8 [N, C, H, W], and their labels.

    Raises:
        FileNotFoundError: there is none, nor ``wanted``, which learn2learn reads.
    """
    try:
        data_set = load(name, root / name if (root / name).is_dir() else root)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{root} does not hold {wanted}, as learn2learn leaves it; and {error}") from None
    if PARTS[mode] not in data_set:
        raise FileNotFoundError(f"{root} has no classes for {mode}: {data_set.split}")
    return _flat(data_set[PARTS[mode]])


def _flat(bank: ImageBank) -> tuple[np.ndarray, list[int]]:
    labels = [label for label, count in enumerate(bank.counts.tolist()) for _ in range(count)]
    return np.concatenate([bank[i] for i in range(bank.n_classes)]), labels

"""ImageBank: the images of many classes, as uint8 pixels in one flat array."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from maml_fast import _arguments as arguments
from maml_fast._arguments import check_fields, instance, integer, location, many, optional, shown, takes, text
from maml_fast.data._npy import MappedFile, map_npy

__all__ = ["ImageBank"]


@dataclass(frozen=True, eq=False, repr=False)
class ImageBank:
    """Images of ``n_classes`` classes; class ``i`` owns ``images[starts[i] : starts[i] + counts[i]]``.

    Pixels stay uint8 (Omniglot: 25 MB); the sampler scales them to float. Banks made by `select` share one array. A
    memory-mapped file is never copied, not even by pickling: unpickling maps the file again.

    Attributes:
        images: uint8 ``[M, C, H, W]``, C-contiguous; may be a read-only ``np.memmap``.
        starts: int64 ``[n_classes]``, the index of each class's first image.
        counts: int64 ``[n_classes]``, the number of images of each class, at least 1. Classes may differ in size and
            may overlap.
        class_names: one distinct name per class.
        name: the bank's name in messages and records.
        file: the .npy file that `images` maps in full; None if it maps no file.

    Raises:
        TypeError, ValueError: an attribute is not as described.
    """

    images: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    class_names: tuple[str, ...]
    name: str = "bank"
    file: MappedFile | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_fields(self, name=text, file=optional(instance(MappedFile)))
        _check_images(self.images, self.name)
        object.__setattr__(self, "starts", _frozen_integers("starts", self.starts))
        object.__setattr__(self, "counts", _frozen_integers("counts", self.counts))
        object.__setattr__(self, "class_names", _checked_names("class_names", self.class_names))
        self._check_ranges()

    def _check_ranges(self) -> None:
        n_classes, n_images = len(self.class_names), len(self.images)
        if not len(self.starts) == len(self.counts) == n_classes:
            raise ValueError(
                f"starts, counts and class_names must be equally long, got {len(self.starts)}, {len(self.counts)} "
                f"and {n_classes}"
            )
        if n_classes == 0:
            raise ValueError(f"bank {self.name!r} has no classes; give at least one")
        wrong = (self.counts < 1) | (self.starts < 0) | (self.starts > n_images - self.counts)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"class {i} ({self.class_names[i]!r}) has {self.counts[i]} images, from image "
                f"{self.starts[i]} on; a class needs at least one, and bank {self.name!r} has only {n_images} images"
            )

    @classmethod
    @takes(class_names=optional(many(text)), name=text)
    def from_array(cls, array: np.ndarray, class_names: Sequence[str] | None = None, name: str = "array") -> ImageBank:
        """Make a bank from uint8 ``[n_classes, n_images, C, H, W]``, without a copy if the array is C-contiguous.

        Args:
            array: the pixels, 0 to 255.
            class_names: one distinct name per class; "class 0", "class 1", ... if None.
            name: the bank's name in messages and records.

        Raises:
            TypeError: `array` is not a NumPy array of uint8, or another argument has the wrong type.
            ValueError: `array` does not have five dimensions, one of them is 0, or the names do not fit the classes.
        """
        arguments.array("array", array)
        if array.ndim != 5 or 0 in array.shape:
            raise ValueError(f"array must be [n_classes, n_images, C, H, W], none of them 0, got shape {array.shape}")
        if array.dtype != np.uint8:
            raise TypeError(_dtype_message(array))
        n_classes, n_images = array.shape[:2]
        if class_names is None:
            class_names = [f"class {i}" for i in range(n_classes)]
        starts = np.arange(n_classes, dtype=np.int64) * n_images
        counts = np.full(n_classes, n_images, dtype=np.int64)
        images = array.reshape(-1, *array.shape[2:])  # [M, C, H, W]
        if not images.flags.c_contiguous:
            images = np.ascontiguousarray(images)
        return cls(images, starts, counts, tuple(class_names), name)

    @classmethod
    @takes(path=location, class_names=optional(many(text)), name=optional(text))
    def from_npy(
        cls, path: str | os.PathLike[str], class_names: Sequence[str] | None = None, name: str | None = None
    ) -> ImageBank:
        """Map a .npy file, uint8 ``[n_classes, n_images, C, H, W]``, without reading it into memory.

        Args:
            path: the .npy file.
            class_names: one distinct name per class; "class 0", "class 1", ... if None.
            name: the bank's name in messages and records; the file name without its suffix if None.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a .npy file, is truncated, or holds an array of another shape.
            TypeError: the array is not uint8.
        """
        path = Path(path)
        array, file = map_npy(path)
        try:
            if array.dtype != np.uint8:
                raise TypeError(_dtype_message(array))
            return replace(cls.from_array(array, class_names, name or path.stem), file=file)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from None

    @property
    def n_classes(self) -> int:
        """The number of classes; ``len(bank)`` is the same."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of every image, ``(C, H, W)``."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return self.n_classes

    def __getitem__(self, i: int) -> np.ndarray:
        """Return the images of class `i`, a view ``[counts[i], C, H, W]``; a negative `i` counts from the end."""
        i = integer("i", i)
        if not -self.n_classes <= i < self.n_classes:
            raise IndexError(f"class {i} of bank {self.name!r}, which has {self.n_classes} classes")
        return self.images[self.starts[i] : self.starts[i] + self.counts[i]]

    @takes(name=optional(text))
    def select(self, classes: slice | Sequence[int] | np.ndarray, name: str | None = None) -> ImageBank:
        """Return a bank of these classes, in this order, that shares the images with this bank.

        Args:
            classes: a slice, or distinct class numbers; negative ones count from the end.
            name: the new bank's name; this bank's name if None.

        Raises:
            TypeError: `classes` is neither a slice nor a sequence of integers.
            ValueError: no class is selected, a number is out of range, or a class is selected more than once.
        """
        numbers = self._class_numbers(classes)
        if len(numbers) == 0:
            raise ValueError(
                f"no class of bank {self.name!r} ({self.n_classes} classes) is selected by {shown(classes)}"
            )
        names = tuple(self.class_names[i] for i in numbers)
        return ImageBank(
            self.images, self.starts[numbers], self.counts[numbers], names, name or self.name, file=self.file
        )

    def _class_numbers(self, classes: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        if isinstance(classes, slice):
            return np.arange(self.n_classes)[classes]
        numbers = np.asarray(classes)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise TypeError(f"classes must be a slice or a sequence of class numbers, got {shown(classes)}")
        outside = (numbers < -self.n_classes) | (numbers >= self.n_classes)
        if outside.any():
            raise ValueError(
                f"class {numbers[outside][0]} is not in bank {self.name!r}, which has classes 0 to {self.n_classes - 1}"
            )
        numbers = numbers.astype(np.int64) % self.n_classes
        values, times = np.unique(numbers, return_counts=True)
        if (times > 1).any():
            raise ValueError(f"class {values[times > 1][0]} is selected more than once; select every class once")
        return numbers

    def __repr__(self) -> str:
        smallest, largest = self.counts.min(), self.counts.max()
        per_class = f"{smallest}" if smallest == largest else f"{smallest}-{largest}"
        mapped = f", mapped from {self.file.path}" if self.file else ""
        return f"<ImageBank {self.name!r}: {self.n_classes} classes x {per_class} images of {self.image_shape}{mapped}>"

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.starts, self.counts, self.class_names, self.name)
        return (ImageBank, (self.images, *rest)) if self.file is None else (_map_again, (self.file, *rest))


def _map_again(file: MappedFile, *rest: Any) -> ImageBank:
    """Unpickle a mapped bank by mapping its file again."""
    array = file.map_again()
    return ImageBank(array.reshape(-1, *array.shape[-3:]), *rest, file=file)


def _check_images(images: np.ndarray, name: str) -> None:
    arguments.array("images", images)
    if images.dtype != np.uint8:
        raise TypeError(f"images: {_dtype_message(images)}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be [M, C, H, W], none of them 0, got shape {images.shape} for bank {name!r}")
    if not images.flags.c_contiguous:
        raise ValueError(f"images of bank {name!r} must be C-contiguous; pass np.ascontiguousarray(images)")


def _dtype_message(array: np.ndarray) -> str:
    """Return the error message for pixels that are not uint8; it suggests code that converts them."""
    if array.dtype.kind not in "biuf" or not array.size:
        return f"pixels must be uint8, numbers from 0 to 255; got {array.dtype}"
    least, most = float(array.min()), float(array.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        return f"pixels must be uint8, numbers from 0 to 255; got {array.dtype} with NaN or infinity: clean them first"
    return f"pixels must be uint8, got {array.dtype} from {least:g} to {most:g}; save {_to_bytes(least, most)} instead"


def _to_bytes(least: float, most: float) -> str:
    """Return code that converts pixels to uint8, from the usual range that contains them, else from their own range."""
    if least >= 0:
        if 1 < most <= 255:
            return "array.round().astype(np.uint8)"
        white = 1.0 if most <= 1 else 2.0 ** math.ceil(math.log2(most + 1)) - 1  # the largest integer of that many bits
        return f"(array * {255 / white!r}).round().astype(np.uint8)"
    if least >= -1 and most <= 1:
        return "(array * 127.5 + 127.5).round().astype(np.uint8)"
    scale = 255 / (max(most, 0.0) - least)
    return f"(array * {scale!r} + {-least * scale!r}).round().astype(np.uint8)"


def _frozen_integers(what: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"{what} must be a one-dimensional array of integers, got {array.dtype} of shape {array.shape}")
    array = array.astype(np.int64)  # a private copy, so that the ranges can't change after they are checked
    array.setflags(write=False)
    return array


def _checked_names(what: str, values: Any) -> tuple[str, ...]:
    names = many(text)(what, values)
    if len(set(names)) != len(names):
        repeated = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"class name {repeated!r} occurs more than once; names must be distinct")
    return names

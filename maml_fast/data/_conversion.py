"""Conversion of pictures from any source into an image bank: in memory, or in a memory-mapped .npy in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maml_fast._arguments import check_fields, choice, function, int_from, optional
from maml_fast.data._bank import ImageBank
from maml_fast.data._dataset import MessageCallback, Progress, print_to_stderr
from maml_fast.data._files import fingerprint, only_process, stamps, write_atomically, write_npy
from maml_fast.data._npy import MappedFile, map_npy
from maml_fast.data._sealed import is_sound, seal
from maml_fast.native import cache_folder

__all__ = ["Conversion", "Pictures"]

MAX_SIZE = 4096  # pixels per side
CHANNELS = choice("L", "RGB", said="'L' or 'RGB'")


_MAY_HAVE_FRAMES = {".gif", ".tif", ".tiff", ".webp", ".png"}


class Pictures(NamedTuple):
    """Pictures, ordered by class; each is decoded on request."""

    class_names: Sequence[str]
    counts: Sequence[int]  # pictures of each class
    image: Callable[[int], np.ndarray]  # number of the picture -> uint8 [C, H, W]


@dataclass(frozen=True)
class Conversion:
    """Size and channels of a bank's images, and the callbacks that report on the conversion.

    Attributes:
        size: pixels per side.
        channels: "L" (gray) or "RGB".
        progress: called with (pictures done, pictures in total).
        say: called with each message for the user, one line.

    Raises:
        TypeError, ValueError: an attribute is not as described.
    """

    size: int
    channels: str
    progress: Progress | None = None
    say: MessageCallback = print_to_stderr
    _reported: list[Path] = field(default_factory=list, init=False, compare=False)  # the file with several frames

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", int_from(1, MAX_SIZE)("image_size", self.size))
        check_fields(self, channels=CHANNELS, progress=optional(function()), say=function())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of every image, ``(C, H, W)``."""
        return len(self.channels), self.size, self.size  # "L" is one channel, "RGB" three

    def decode(self, file: Path) -> np.ndarray:
        """Decode a picture file into uint8 ``[C, H, W]``; report the first file that has several frames."""
        from maml_fast.data._pictures import decode, has_more_frames  # imports Pillow

        if not self._reported and file.suffix.lower() in _MAY_HAVE_FRAMES and has_more_frames(file):
            self._reported.append(file)
            self.say(f"{file} has several frames; only the first frame of such pictures is used")
        return decode(file, str(file), self.channels, self.size)

    def hold(self, pictures: Pictures, name: str) -> ImageBank:
        """Make a bank in memory."""
        images = np.empty((sum(pictures.counts), *self.image_shape), np.uint8)
        for i, image in enumerate(self._images(pictures)):
            images[i] = image
        return _bank(images, pictures.class_names, pictures.counts, name, None)

    def keep(
        self, sources: Sequence[Path], read: Callable[[], Pictures], name: str, folder: Path | None = None
    ) -> ImageBank:
        """Map the bank made from `sources`; make it first if it does not exist or a source has changed since.

        The bank is kept as a .npy of the pixels and a .json of the classes. Their names depend on everything that they
        are made from, and both are sealed: if either is damaged, or another user could have written it, both are made
        again. One process makes them; others wait for it.

        Args:
            sources: the files that determine the contents of the bank.
            read: reads them; called only if the bank has to be made.
            name: the bank's name.
            folder: where to keep the bank; ``banks`` in the cache folder (``MAML_FAST_CACHE``) if None.

        Raises:
            RuntimeError: `folder` is not writable.
        """
        folder = folder or cache_folder() / "banks"
        stem = f"{name.replace(os.sep, '-')}-{fingerprint(stamps(sources), self.image_shape)}"
        pixels, listing = folder / f"{stem}.npy", folder / f"{stem}.json"
        if not _are_sound(pixels, listing):
            with only_process(pixels, self.say):
                if not _are_sound(pixels, listing):  # nor has another process made them meanwhile
                    self._write(pixels, listing, read, name)
        images, file = map_npy(pixels)
        classes = json.loads(listing.read_bytes())
        return _bank(images, list(classes), list(classes.values()), name, file)

    def _write(self, pixels: Path, listing: Path, read: Callable[[], Pictures], name: str) -> None:
        if pixels.exists() and listing.exists():
            self.say(f"{pixels} is damaged, or another user could have written it: it is made again")
        pictures = read()
        shape = (sum(pictures.counts), *self.image_shape)
        self.say(f"converting the {shape[0]:,} pictures of {name}, once, into {pixels}")
        write_npy(pixels, shape, self._images(pictures))
        classes = dict(zip(pictures.class_names, map(int, pictures.counts), strict=True))
        write_atomically(listing, json.dumps(classes).encode())
        seal(pixels)
        seal(listing)

    def _images(self, pictures: Pictures) -> Iterator[np.ndarray]:
        n_images = sum(pictures.counts)
        for i in range(n_images):
            yield pictures.image(i)
            if self.progress:
                self.progress(i + 1, n_images)


def _are_sound(*files: Path) -> bool:
    return all(map(is_sound, files))


def _bank(
    images: np.ndarray, class_names: Sequence[str], counts: Sequence[int], name: str, file: MappedFile | None
) -> ImageBank:
    return ImageBank(images, np.cumsum(counts) - counts, np.array(counts), tuple(class_names), name, file=file)

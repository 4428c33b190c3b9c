"""Turning pictures, wherever they come from, into a bank: in memory, or in a .npy in the cache folder, mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maml_fast._arguments import choice, function, optional, settle, whole
from maml_fast.data._bank import ImageBank
from maml_fast.data._dataset import Progress, Say, say_on_stderr
from maml_fast.data._files import fingerprint, stamps, write_atomically
from maml_fast.data._npy import MappedFile, map_npy
from maml_fast.data._pictures import decode, has_more_frames
from maml_fast.data._sealed import is_sound, seal
from maml_fast.data._staged import write_npy_in_stages
from maml_fast.native import cache_folder

__all__ = ["Conversion", "Pictures"]

MOST_SIZE = 4096  # pixels per side
CHANNELS = choice("L", "RGB", said="'L' or 'RGB'")


_MAY_HAVE_FRAMES = {".gif", ".tif", ".tiff", ".webp", ".png"}


class Pictures(NamedTuple):
    """Pictures class after class, each made into pixels when it is asked for."""

    class_names: Sequence[str]
    counts: Sequence[int]
    image: Callable[[int], np.ndarray]  # number of the picture -> uint8 [C, H, W]


@dataclass(frozen=True)
class Conversion:
    """What the images of a bank shall be, and whom to tell about the work.

    Attributes:
        size: pixels per side.
        channels: "L" (gray) or "RGB".
        progress: called with (pictures done, pictures in all).
        say: called with a line for the user.

    Raises:
        TypeError, ValueError: an attribute is none of these.
    """

    size: int
    channels: str
    progress: Progress | None = None
    say: Say = say_on_stderr
    _told: list[Path] = field(default_factory=list, init=False, compare=False)  # the file of several frames, told once

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole(1, MOST_SIZE)("image_size", self.size))
        settle(self, channels=CHANNELS, progress=optional(function()), say=function())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return len(self.channels), self.size, self.size  # "L" is one channel, "RGB" three

    def decode(self, file: Path) -> np.ndarray:
        """Make pixels of a picture file, as `pictures.decode` does: uint8 ``[C, H, W]``."""
        if not self._told and file.suffix.lower() in _MAY_HAVE_FRAMES and has_more_frames(file):
            self._told.append(file)
            self.say(f"{file} has several frames: of such pictures the first frame is taken")
        return decode(file, str(file), self.channels, self.size)

    def hold(self, pictures: Pictures, name: str) -> ImageBank:
        """Make a bank in memory."""
        n_images = sum(pictures.counts)
        images = np.empty((n_images, *self.image_shape), np.uint8)
        for i in range(n_images):
            images[i] = pictures.image(i)
            if self.progress:
                self.progress(i + 1, n_images)
        return _bank(images, pictures.class_names, pictures.counts, name, None)

    def keep(
        self, sources: Sequence[Path], read: Callable[[], Pictures], name: str, folder: Path | None = None
    ) -> ImageBank:
        """Map the bank that was made of `sources`; make it first if nobody has, or if a source has changed since.

        A .npy of the pixels and a .json of the classes are kept, named after what they are made of, and sealed: where
        either was damaged, or another user could have written it, both are made again. A conversion that was killed
        goes on where it was.

        Args:
            sources: the files that decide everything in the bank.
            read: reads them, if need be.
            name: the bank's.
            folder: where to keep it; ``banks`` in the cache folder (``MAML_FAST_CACHE``) if None.

        Raises:
            RuntimeError: `folder` cannot be written.
        """
        folder = folder or cache_folder() / "banks"
        stem = f"{name.replace(os.sep, '-')}-{fingerprint(stamps(sources), self.image_shape)}"
        pixels, listing = folder / f"{stem}.npy", folder / f"{stem}.json"
        if not (is_sound(pixels) and is_sound(listing)):
            if pixels.exists() and listing.exists():
                self.say(f"{pixels} is damaged, or another user could have written it: it is made again")
            pictures = read()
            shape = (sum(pictures.counts), *self.image_shape)
            self.say(f"converting the {shape[0]:,} pictures of {name}, once, into {pixels}")
            write_npy_in_stages(pixels, shape, pictures.image, self.progress, self.say)
            classes = dict(zip(pictures.class_names, map(int, pictures.counts), strict=True))
            write_atomically(listing, json.dumps(classes).encode())
            seal(listing)
        images, file = map_npy(pixels)
        classes = json.loads(listing.read_bytes())
        return _bank(images, list(classes), list(classes.values()), name, file)


def _bank(
    images: np.ndarray, class_names: Sequence[str], counts: Sequence[int], name: str, file: MappedFile | None
) -> ImageBank:
    return ImageBank(images, np.cumsum(counts) - counts, np.array(counts), tuple(class_names), name, file=file)

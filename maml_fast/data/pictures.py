"""Decoding picture files into pixels of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

__all__ = ["decode", "fitted"]


def decode(
    source: Path | BinaryIO,
    where: str,
    channels: str,
    size: int,
    check: Callable[[Image.Image], None] | None = None,
) -> np.ndarray:
    """Decode a picture into uint8 ``[C, size, size]``.

    It is turned into grey ("L") or "RGB" first and resized then, by Pillow's bicubic filter, which averages where it
    shrinks. Transparent parts show white paper.

    Args:
        source: the file, or its open content.
        where: what errors call it.
        channels: "L" or "RGB".
        size: pixels per side.
        check: called with the picture before its pixels are decoded; raises ValueError to refuse it.

    Raises:
        ValueError: not a picture, damaged, refused, or of more than 8 bits per channel.
    """
    with _naming(where), Image.open(source) as image:
        if check:
            check(image)
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"has pixels of kind {image.mode!r}, not 8 bits per channel; save it with 8 bits")
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return fitted(image, channels, size)


def fitted(image: Image.Image, channels: str, size: int) -> np.ndarray:
    """Return the pixels of an opaque picture in these channels and at this size, as `decode` does."""
    pixels = np.asarray(image.convert(channels).resize((size, size), Image.Resampling.BICUBIC))
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except Image.UnidentifiedImageError:
        raise ValueError(f"{where} is not a picture that Pillow can read") from None
    except Exception as error:  # on damaged files Pillow's decoders raise errors of many kinds
        raise ValueError(f"{where} cannot be used: {error}") from error

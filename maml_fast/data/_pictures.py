"""Decoding picture files into pixels of one size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

__all__ = ["MOST_PIXELS", "decode", "fitted", "has_more_frames"]

# Pillow knows others too, some of which start programs, whatever a file is called.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MOST_PIXELS = 64_000_000  # of a picture: it takes up to 12 bytes for each of them


def decode(
    source: Path | BinaryIO,
    where: str,
    channels: str,
    size: int,
    check: Callable[[Image.Image], None] | None = None,
) -> np.ndarray:
    """Decode a picture into uint8 ``[C, size, size]``.

    It is turned as its EXIF orientation says, made gray ("L") or "RGB", and resized then, by Pillow's bicubic filter,
    which averages where it shrinks. Transparent parts show white paper. Of several frames the first is taken, of 16
    bits of gray the upper 8.

    Args:
        source: the file, or its open content.
        where: what errors call it.
        channels: "L" or "RGB".
        size: pixels per side.
        check: called with the picture before its pixels are decoded; raises ValueError to refuse it.

    Raises:
        ValueError: not a picture, damaged, refused, of numbers beyond 16 bits, or of too many pixels.
    """
    with _naming(where), _opened(source) as image:
        if check:
            check(image)
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"has {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}; shrink it")
        if image.mode in ("I", "F"):
            raise ValueError(f"has pixels of kind {image.mode!r}, whose white is unknown; save it with 8 bits")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # which Pillow would clip, not scale
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return fitted(image, channels, size)


def fitted(image: Image.Image, channels: str, size: int) -> np.ndarray:
    """Return the pixels of an opaque picture in these channels and at this size, as `decode` does."""
    pixels = np.asarray(image.convert(channels).resize((size, size), Image.Resampling.BICUBIC))
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def has_more_frames(source: Path) -> bool:
    """Whether a file holds an animation or several pages, of which `decode` takes the first.

    A camera's JPEG may hold smaller copies of its picture (MPO), which nobody misses. Damaged files are not judged.
    """
    try:
        with _opened(source) as image:
            return image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    except Exception:
        return False


def _opened(source: Path | BinaryIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of our own
        return Image.open(source, formats=FORMATS)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except Image.UnidentifiedImageError:
        raise ValueError(f"{where} is not a picture that Pillow can read") from None
    except Exception as error:  # on damaged files Pillow's decoders raise errors of many kinds
        raise ValueError(f"{where} cannot be used: {error}") from error

"""Decodes picture files into pixels of one size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

__all__ = ["MAX_PIXELS", "decode", "fitted", "has_more_frames"]

# Pillow reads other formats too, whatever the file's extension; for some of them it starts external programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # per picture; decoding takes up to 12 bytes for each


def decode(
    source: Path | BinaryIO,
    where: str,
    channels: str,
    size: int,
    check: Callable[[Image.Image], None] | None = None,
) -> np.ndarray:
    """Decode a picture into uint8 ``[C, size, size]``.

    The picture is rotated according to its EXIF orientation, converted to gray ("L") or "RGB", and then resized with
    Pillow's bicubic filter, which averages when it shrinks. Transparent parts become white. Only the first of several
    frames, and only the upper 8 of 16 bits of gray are used.

    Args:
        source: the file, or an open file.
        where: the picture's name in error messages.
        channels: "L" or "RGB".
        size: pixels per side.
        check: called with the picture before its pixels are decoded; raises ValueError to reject it.

    Raises:
        ValueError: the file is not a picture, is damaged, is rejected by `check`, has pixels of more than 16 bits, or
            has too many pixels.
    """
    with _naming(where), _opened(source) as image:
        if check:
            check(image)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; shrink it")
        if image.mode in ("I", "F"):
            raise ValueError(f"has pixels of kind {image.mode!r}, whose white is unknown; save it with 8 bits")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # Pillow would clip these, not scale them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return fitted(image, channels, size)


def fitted(image: Image.Image, channels: str, size: int) -> np.ndarray:
    """Return the pixels of an opaque picture, converted and resized as in `decode`: uint8 ``[C, size, size]``."""
    pixels = np.asarray(image.convert(channels).resize((size, size), Image.Resampling.BICUBIC))
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def has_more_frames(source: Path) -> bool:
    """Return whether a file contains several frames or pages, of which `decode` uses the first.

    A camera's JPEG may contain smaller copies of its picture (MPO); these do not count. False for damaged files.
    """
    try:
        with _opened(source) as image:
            return image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    except Exception:
        return False


def _opened(source: Path | BinaryIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # decode has its own limit
        return Image.open(source, formats=FORMATS)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except Image.UnidentifiedImageError:
        raise ValueError(f"{where} is not a picture that Pillow can read") from None
    except Exception as error:  # Pillow's decoders raise many kinds of errors for damaged files
        raise ValueError(f"{where} cannot be used: {error}") from error

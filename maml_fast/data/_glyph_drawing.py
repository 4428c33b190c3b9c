"""Draws one picture of a character: its size, slant and tints, plain or at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from maml_fast.data._philox import below

__all__ = ["PLAIN", "Style", "draw_glyph", "random_styles"]

# Streams of random numbers; see _philox.py. The "episode" is the character's code point, the index its typeface.
_EXTENT_STREAM, _SLANT_STREAM, _PAPER_STREAM = range(3)
_LIGHT_STREAM, _DARK_STREAM = 3, 6  # of the first channel; the other two have the next streams


class Style(NamedTuple):
    """How one picture looks.

    Attributes:
        extent: longer side of the ink, in thousandths of the picture's side.
        slant: how far the character leans to the right, in thousandths of its height; negative to the left.
        paper: color of the paper, 0 to 255 per channel.
        ink: color of the ink.
    """

    extent: int
    slant: int
    paper: Sequence[int]
    ink: Sequence[int]


PLAIN = Style(extent=800, slant=0, paper=(255,), ink=(0,))


def draw_glyph(ink: Image.Image, style: Style, size: int) -> np.ndarray:
    """Draw one picture, uint8 ``[C, size, size]``, of a character's ink (mode L, cut to what is drawn)."""
    if style.slant:
        ink = _leaning(ink, style.slant / 1000)
    scale = style.extent / 1000 * size / max(ink.size)
    fitted = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.BICUBIC)
    sheet = Image.new("L", (size, size))
    sheet.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    covered = np.asarray(sheet, np.int64)  # [size, size], 0 to 255
    colors = [np.array(color, np.int64)[:, None, None] for color in (style.paper, style.ink)]  # [C, 1, 1]
    return ((colors[0] * (255 - covered) + colors[1] * covered + 127) // 255).astype(np.uint8)


def _leaning(ink: Image.Image, slant: float) -> Image.Image:
    """Shear a drawing and cut it to its ink."""
    width, height = ink.size
    reach = abs(slant) * height
    shift = -reach if slant > 0 else 0.0  # of the top row; a positive slant moves the top to the right
    sheared = ink.transform(
        (int(width + reach) + 1, height),
        Image.Transform.AFFINE,
        (1.0, slant, shift, 0.0, 1.0, 0.0),
        Image.Resampling.BILINEAR,
    )
    box = sheared.getbbox()
    return sheared.crop(box) if box else ink


def random_styles(seed: int, places: Sequence[tuple[str, int]]) -> Iterator[Style]:
    """Draw a style for each character and number of its typeface; it depends on these two and the seed alone."""
    points, faces = np.array([ord(character) for character, _ in places]), np.array([face for _, face in places])

    def draw(stream: int, low: int, high: int) -> np.ndarray:
        """Draw integers from low to high, [P]."""
        return low + below(seed, points, stream, faces, high - low + 1)

    extents, slants = draw(_EXTENT_STREAM, 500, 900), draw(_SLANT_STREAM, -250, 250)
    light, dark = (
        np.stack([draw(stream + channel, *bounds) for channel in range(3)], axis=1)  # [P, 3]
        for stream, bounds in ((_LIGHT_STREAM, (156, 255)), (_DARK_STREAM, (0, 99)))
    )
    is_night = draw(_PAPER_STREAM, 0, 1) == 1  # light ink on dark paper
    papers, inks = (np.where(is_night[:, None], *tints).tolist() for tints in ((dark, light), (light, dark)))
    for extent, slant, paper, ink in zip(extents.tolist(), slants.tolist(), papers, inks, strict=True):
        yield Style(extent, slant, paper, ink)

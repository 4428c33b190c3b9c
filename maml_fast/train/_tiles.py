"""Building blocks for sheets of small images: a canvas measured in tiles, framed images, and drawable text.

Drawn on ``Figure`` objects with the Agg canvas: no window, no pyplot state, safe in any thread and without a display.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ft2font import FT2Font

__all__ = ["FAINT", "INK", "RIGHT", "WRONG", "draw_tile", "drawable", "png_of", "tile_canvas"]

INK = "#1f2933"
FAINT = "#8492a6"
RIGHT = "#2a9d5c"
WRONG = "#d64545"


def tile_canvas(
    columns: float,
    rows: float,
    title: str,
    caption: str,
    *,
    tile: float = 0.62,
    left: float = 0.45,
    top: float = 1.05,
) -> tuple[Figure, Axes]:
    """Create a figure with axes in units of tiles, y downwards, between title and caption; keywords are in inches."""
    tile = min(tile, 13.0 / columns)
    right, bottom = 0.2, 0.36 + 0.14 * len(caption.splitlines())
    width, height = left + columns * tile + right, top + rows * tile + bottom
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((left / width, bottom / height, columns * tile / width, rows * tile / height))
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.axis("off")
    figure.text(left / width, 1 - 0.18 / height, drawable(title), ha="left", va="top", fontsize=12.5,
                fontweight="bold", color=INK, parse_math=False)  # fmt: skip
    figure.text(left / width, 0.2 / height, caption, ha="left", va="bottom", fontsize=8.5, color=FAINT)
    return figure, axes


def draw_tile(
    axes: Axes, column: float, row: float, image: np.ndarray, color: str | None = None, badge: str = ""
) -> None:
    """Draw an image [C, H, W] with values from 0 to 1 in a tile, with a colored frame and ``badge`` in a corner."""
    x, y, pad = column, float(row), 0.06
    pixels = np.clip(image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0), 0.0, 1.0).transpose(1, 2, 0)
    axes.imshow(pixels, extent=(x + pad, x + 1 - pad, y + 1 - pad, y + pad), aspect="auto", interpolation="antialiased")
    weight = 0.8 if color is None else 2.0
    frame = Rectangle((x + pad, y + pad), 1 - 2 * pad, 1 - 2 * pad, fill=False, edgecolor=color or FAINT)
    frame.set_linewidth(weight)
    axes.add_patch(frame)
    if badge:
        axes.text(x + 1 - pad, y + 1 - pad, badge, ha="right", va="bottom", fontsize=7,
                  color="white", bbox={"facecolor": color or FAINT, "edgecolor": "none", "pad": 1.0})  # fmt: skip


def drawable(text: str, most: int = 200) -> str:
    """Return one line of text that the built-in font can draw, of at most ``most`` characters.

    Names of folders may be in any script. Characters that the font lacks become question marks.
    """
    has_glyph = _font().get_char_index
    characters = (each if each.isprintable() and has_glyph(ord(each)) else "?" for each in text)
    return "".join(characters) if len(text) <= most else "".join(characters)[: most - 1] + "…"


@cache
def _font() -> FT2Font:
    return font_manager.get_font(font_manager.findfont("DejaVu Sans"))


def png_of(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()

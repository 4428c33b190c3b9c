"""Draw sheets of pictures as the model sees them, with its predictions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from maml_fast.deployment._adapted import Prediction
from maml_fast.deployment._judgement import Judgement
from maml_fast.deployment._support import SupportSet
from maml_fast.train._tiles import FAINT, INK, RIGHT, WRONG, draw_tile, drawable, png_of, tile_canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_predictions", "draw_support"]

MOST_CLASSES, MOST_PICTURES = 40, 12  # on a sheet: classes, and pictures of each class
MOST_TILES, TILES_IN_A_ROW = 120, 8
NAME = 24  # most characters of a class name beside a row
LEAST_COLUMNS = 6  # columns of tiles that the text needs as room
TOP = 0.6  # inches, for the title


def draw_support(support: SupportSet, judgement: Judgement | None, title: str) -> bytes:
    """Return a PNG of the support set, one row per class, with the leave-one-out predictions.

    A green frame marks a picture that a model adapted without it classified correctly. A red frame marks a wrong
    prediction; the number in it is that of the predicted class.
    """
    classes = range(min(len(support.class_names), MOST_CLASSES))
    columns = min(max(support.counts), MOST_PICTURES)
    names = [f"{drawable(support.class_names[label], NAME)}  {label + 1}" for label in classes]
    left = 0.25 + 0.085 * max(map(len, names))
    columns = max(columns, LEAST_COLUMNS)
    caption = textwrap.fill(_caption(support, judgement), width=10 * columns)
    figure, axes = tile_canvas(columns, len(classes), title, caption, left=left, top=TOP)
    for label, name in zip(classes, names, strict=True):
        axes.text(-0.18, label + 0.5, name, ha="right", va="center", fontsize=10, color=INK, parse_math=False)
        for column, i in enumerate(np.flatnonzero(support.labels == label)[:columns]):
            answer = -1 if judgement is None else int(judgement.predicted[i])
            color = None if answer < 0 else RIGHT if answer == label else WRONG
            image = support.pixels[i] / 255
            draw_tile(axes, column, label, image, color, str(answer + 1) if color == WRONG else "")
    return png_of(figure)


def draw_predictions(predictions: Sequence[Prediction], pixels: np.ndarray, title: str) -> bytes:
    """Return a PNG of pictures, uint8 [N, C, H, W], each with its predicted class and that class's probability."""
    shown = min(len(predictions), MOST_TILES)
    columns, rows = min(shown, TILES_IN_A_ROW), -(-shown // TILES_IN_A_ROW)
    caption = "class and probability" + (
        f"; {shown} of {len(predictions)} pictures" if shown < len(predictions) else ""
    )
    height = 1.6  # of a row with its two lines of text, in tiles
    figure, axes = tile_canvas(max(columns, 4), rows * height, title, caption, tile=1.1, top=TOP)
    for i, prediction in enumerate(predictions[:shown]):
        row, column = divmod(i, TILES_IN_A_ROW)
        draw_tile(axes, column, row * height, pixels[i] / 255)
        _write_below(axes, column + 0.5, row * height + 1, prediction)
    return png_of(figure)


def _write_below(axes: Axes, x: float, y: float, prediction: Prediction) -> None:
    name = drawable(prediction.class_name, 14)
    axes.text(x, y, name, ha="center", va="top", fontsize=9, color=INK, parse_math=False)
    axes.text(x, y + 0.24, f"{prediction.probability:.0%}", ha="center", va="top", fontsize=8.5, color=FAINT)


def _caption(support: SupportSet, judgement: Judgement | None) -> str:
    sentences = ["Pictures as the model sees them."]
    if judgement is not None:
        sentences.append(f"{str(judgement).capitalize()}. Green: correct; red: wrong, with the predicted class.")
    n_classes, most = len(support.class_names), max(support.counts)
    if n_classes > MOST_CLASSES or most > MOST_PICTURES:
        sentences.append(
            f"Shown: {min(n_classes, MOST_CLASSES)} of {n_classes} classes, at most {MOST_PICTURES} pictures of each."
        )
    return " ".join(sentences)

"""Pictures of a run: the learning curve, and one episode before and after adaptation.

Drawn on ``Figure`` objects with the Agg canvas: no window, no pyplot state, safe in any thread and without a display.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from maml_fast.train._tiles import FAINT, INK, RIGHT, WRONG, draw_tile, drawable, png_of, tile_canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EpisodePicture", "draw_episode", "draw_learning_curve", "smooth", "style", "thinned"]

GRID = "#e6eaf0"
TRAIN = "#4c78a8"
TEST = "#e4572e"

MAX_POINTS = 2000  # more than the picture has pixel columns; longer runs are binned
MAX_QUERIES = 8  # per class, in the picture of an episode
MAX_SUPPORTS = 5
MAX_CLASSES = 20

Row = dict[str, Any]


def draw_learning_curve(
    rows: Sequence[Row], title: str, n_way: int, inner_steps: int, total_seconds: float | None = None
) -> bytes:
    """Draw accuracy (train, test with its 95 % band, chance) above loss over the meta-iterations; return the PNG.

    ``rows`` are those of ``metrics.jsonl``; rows of training or of evaluations may be missing. ``inner_steps`` is the
    number in training.
    """
    train = [row for row in rows if "loss" in row]
    tests = [row for row in rows if "accuracy" in row]
    figure = Figure(figsize=(9.0, 6.4), facecolor="white", layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1.0])
    figure.suptitle(drawable(title), x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK, parse_math=False)

    iterations = np.array([row["iteration"] for row in train], dtype=float)
    _draw_series(
        top, iterations, np.array([row["query_accuracy"] for row in train]), f"train, {_after(inner_steps)}", "{:.1%}"
    )
    _draw_tests(top, tests)
    top.axhline(1.0 / n_way, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), label=f"chance {1.0 / n_way:.0%}")
    top.set_ylim(0.0, 1.02)
    top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    style(top, "query accuracy")

    _draw_series(
        bottom, iterations, np.array([row["loss"] for row in train]), f"train, {_after(inner_steps)}", "{:.3f}"
    )
    bottom.set_ylim(bottom=0.0)
    style(bottom, "query loss")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    seconds = "" if total_seconds is None else f"   ({_duration(total_seconds)} of training)"
    bottom.set_xlabel(f"meta-iteration{seconds}", color=INK)
    last = max((row["iteration"] for row in rows), default=0)
    bottom.set_xlim(0.0, max(last, 1))
    return png_of(figure)


def _draw_series(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, number: str) -> None:
    """Draw one noisy series: the raw values faintly, their running mean strongly."""
    if len(x) == 0:
        return
    x, y = thinned(x, y)
    smoothed = smooth(y)
    axes.plot(x, y, color=TRAIN, alpha=0.22, linewidth=0.9)
    axes.plot(x, smoothed, color=TRAIN, linewidth=1.9, label=f"{label}  {number.format(smoothed[-1])}")


def _draw_tests(axes: Axes, tests: Sequence[Row]) -> None:
    """Draw accuracy on unseen classes, after the last inner step (with its 95 % band) and before the first."""
    if not tests:
        return
    x = np.array([row["iteration"] for row in tests], dtype=float)
    accuracy = np.array([row["accuracy"] for row in tests])
    interval = np.array([row["interval"] for row in tests])
    before = np.array([row["accuracies"][0] for row in tests])
    split, steps = tests[-1]["split"], tests[-1]["inner_steps"]
    axes.plot(x, before, color=TEST, alpha=0.55, linewidth=1.2, linestyle=":", label=f"{split}, before adaptation")
    axes.fill_between(x, accuracy - interval, accuracy + interval, color=TEST, alpha=0.18, linewidth=0)
    text = f"{split}, {_after(steps)}  {accuracy[-1]:.1%} ± {interval[-1]:.1%}"
    axes.plot(x, accuracy, color=TEST, linewidth=1.9, marker="o", markersize=4, markeredgecolor="white", label=text)


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the centered running mean over about a twentieth of the series; at the end the window is cut off.

    At the start the window is symmetric and grows from one value: curves are steep there, and a one-sided mean would
    distort them.
    """
    index = np.arange(len(values))
    half = np.minimum(max(1, len(values) // 40), index)
    low, high = index - half, np.minimum(index + half + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[high] - sums[low]) / (high - low)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average bins of equal size, so that at most ``MAX_POINTS`` points are drawn."""
    size = -(-len(x) // MAX_POINTS)
    if size == 1:
        return x, y
    starts = np.arange(0, len(x), size)
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def style(axes: Axes, ylabel: str) -> None:
    axes.set_ylabel(ylabel, color=INK)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="best", fontsize=9, frameon=True, facecolor="white", edgecolor="none", framealpha=0.85)
        for text in legend.get_texts():
            text.set_color(INK)


@dataclass(frozen=True)
class EpisodePicture:
    """One episode as arrays: images with values from 0 to 1, labels and predictions from 0 to n_way - 1."""

    support: np.ndarray  # [N·K, C, H, W]
    support_labels: np.ndarray  # [N·K]
    query: np.ndarray  # [Q, C, H, W]
    query_labels: np.ndarray  # [Q]
    before: np.ndarray  # [Q] class predicted with the meta-learned weights
    after: np.ndarray  # [Q] class predicted after the inner steps


def draw_episode(episode: EpisodePicture, title: str, inner_steps: int) -> bytes:
    """Draw one episode with a row per class: support images, and queries as predicted before and after adaptation.

    A green frame is a correct prediction, a red frame a wrong one. The number in a tile is the predicted class. Returns
    a PNG.
    """
    classes = np.unique(episode.support_labels)[:MAX_CLASSES]
    supports = min(MAX_SUPPORTS, int(np.bincount(episode.support_labels).max()))
    queries = min(MAX_QUERIES, int(np.bincount(episode.query_labels).max()))
    panel = max(queries, 4)  # tiles; room for the heading
    gap = 0.7
    starts = (0.0, max(supports, 1) + gap, max(supports, 1) + panel + 2 * gap)
    columns = starts[2] + panel
    figure, axes = tile_canvas(columns, len(classes), title, _caption(episode, classes, queries))
    for row, label in enumerate(classes):
        axes.text(-0.18, row + 0.5, str(label + 1), ha="right", va="center", fontsize=11, fontweight="bold", color=INK)
        _draw_tiles(axes, starts[0], row, episode.support[episode.support_labels == label][:supports])
        chosen = np.flatnonzero(episode.query_labels == label)[:queries]
        for start, predicted in zip(starts[1:], (episode.before, episode.after), strict=True):
            _draw_tiles(axes, start, row, episode.query[chosen], predicted[chosen], int(label))
    _head_panel(axes, starts[0], "support")
    _head_panel(axes, starts[1], "before adaptation", (episode.before == episode.query_labels).mean())
    _head_panel(axes, starts[2], _after(inner_steps), (episode.after == episode.query_labels).mean())
    return png_of(figure)


def _head_panel(axes: Axes, x: float, text: str, accuracy: float | None = None) -> None:
    axes.text(x + 0.06, -0.52 if accuracy is not None else -0.12, text, ha="left", va="bottom", fontsize=9.5, color=INK)
    if accuracy is not None:
        axes.text(x + 0.06, -0.12, f"{accuracy:.0%} right", ha="left", va="bottom", fontsize=9.5, fontweight="bold",
                  color=RIGHT if accuracy >= 0.5 else WRONG)  # fmt: skip


def _draw_tiles(
    axes: Axes, start: float, row: int, images: np.ndarray, predicted: np.ndarray | None = None, label: int = 0
) -> None:
    """Draw images side by side in a row; with ``predicted``, framed and numbered by their predictions."""
    for column, image in enumerate(images):
        if predicted is None:
            draw_tile(axes, start + column, row, image)
        else:
            answer = predicted[column]
            draw_tile(axes, start + column, row, image, RIGHT if answer == label else WRONG, str(answer + 1))


def _caption(episode: EpisodePicture, classes: np.ndarray, queries: int) -> str:
    n_way, most = len(np.unique(episode.support_labels)), int(np.bincount(episode.query_labels).max())
    text = "tile: predicted class, green right, red wrong"
    if len(classes) < n_way or queries < most:
        text += f"; shown: {len(classes)} of {n_way} classes, {queries} of {most} queries each (accuracy is of all)"
    return text


def _after(inner_steps: int) -> str:
    return f"after {inner_steps} inner step{'s' * (inner_steps != 1)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

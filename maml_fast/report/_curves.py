"""The curves of several runs in one picture, as SVG with real text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from maml_fast.report._run import Run
from maml_fast.train._plots import smooth, style, thinned
from maml_fast.train._tiles import INK, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLORS", "draw_curves"]

COLORS = ("#4c78a8", "#e4572e", "#2a9d5c", "#9b5de5", "#d4a017", "#00838f", "#c2185b", "#6d4c41", "#5c6b73", "#7cb342")


def draw_curves(runs: Sequence[Run]) -> str:
    """Draw query accuracy above query loss over the meta-iterations, as an ``<svg>`` element.

    Dotted: training episodes, a running mean. Solid, with the 95 % band: evaluations on unseen classes.
    """
    figure = Figure(figsize=(10.0, 7.0), facecolor="none", layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.6, 1.0])
    for run, color in zip(runs, cycle(COLORS), strict=False):
        _draw_training(top, run, "query_accuracy", color)
        _draw_evaluations(top, run, color)
        _draw_training(bottom, run, "loss", color)
    top.yaxis.set_major_formatter(PercentFormatter(1.0))
    style(top, "query accuracy")
    style(bottom, "query loss")
    bottom.set_ylim(bottom=0.0)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.set_xlabel("meta-iteration", color=INK)
    bottom.set_xlim(0, max(1, *(run.iterations for run in runs)))
    return _svg(figure)


def _draw_training(axes: Axes, run: Run, column: str, color: str) -> None:
    rows = [row for row in run.trained if column in row]
    if not rows:
        return
    x, y = thinned(np.array([row["iteration"] for row in rows], float), np.array([row[column] for row in rows], float))
    label = drawable(run.name) if column == "loss" else None
    axes.plot(x, smooth(y), color=color, linewidth=1.4, linestyle="-" if column == "loss" else ":", label=label)


def _draw_evaluations(axes: Axes, run: Run, color: str) -> None:
    if not run.evaluated:
        return
    x = np.array([row["iteration"] for row in run.evaluated], float)
    accuracy, interval = (np.array([row[name] for row in run.evaluated], float) for name in ("accuracy", "interval"))
    axes.fill_between(x, accuracy - interval, accuracy + interval, color=color, alpha=0.15, linewidth=0)
    label = f"{drawable(run.name)}, {run.evaluated[-1]['split']}  {accuracy[-1]:.1%}"
    axes.plot(x, accuracy, color=color, linewidth=1.9, marker="o", markersize=3.5, markeredgecolor="white", label=label)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "maml_fast"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML declaration, which HTML does not take

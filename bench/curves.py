"""Draws the scaling curves: a panel for every quantity, a line for every pass, and the floor below it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from cliffs import Curve, curves_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from measurements import rows_of, unique
from picture import style
from scaling import AVX2, FLOAT32, FLOAT64, REPLAYED, WHOLE

from maml_fast.train._tiles import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {
    "forward": "#4c78a8",
    "backward": "#2a9d5c",
    "double backward": "#e4572e",
    WHOLE: "#243b53",
    REPLAYED: "#e4572e",
}
WIDTHS = {1: 9, 2: 12}  # inches, by columns
STYLES = {FLOAT32: "-", FLOAT64: "--", AVX2: ":"}


def draw(record: dict[str, Any]) -> bytes:
    """Return a PNG of the milliseconds per task on two logarithmic axes. Lines parallel to the floor have no cliffs."""
    curves = curves_of(rows_of(record, "scaling"))
    subjects = unique(curve.subject for curve in curves)
    columns = min(2, len(subjects))
    rows = (len(subjects) + 1) // 2
    figure = Figure(figsize=(WIDTHS[columns], 3.6 * rows + 1), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Milliseconds a task", x=0.012, ha="left", fontsize=14, fontweight="bold", color=INK)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, subject in zip(panels, subjects, strict=False):
        _draw_panel(ax, [curve for curve in curves if curve.subject == subject])
    for ax in panels[len(subjects) :]:
        ax.set_axis_off()
    figure.legend(handles=_legend(curves), loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _draw_panel(ax: Axes, curves: list[Curve]) -> None:
    for curve in curves:
        at = [point.at for point in curve.points]
        color = COLORS[curve.what]
        ax.plot(at, [p.milliseconds for p in curve.points], STYLES[curve.who], color=color, marker="o", markersize=3)
        if curve.who == FLOAT32:
            floor = [point.milliseconds / point.over_floor for point in curve.points]
            ax.plot(at, floor, color=color, linewidth=0.8, alpha=0.35)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = sorted({point.at for curve in curves for point in curve.points})
    ax.set_xticks(_spread(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_title(curves[0].subject, loc="left", fontsize=11, color=INK)
    style(ax)


def _spread(ticks: list[float], apart: float = 1.18) -> list[float]:
    """Return as many ticks as can be read on a logarithmic axis."""
    kept = ticks[:1]
    for tick in ticks[1:]:
        if tick >= apart * kept[-1]:
            kept.append(tick)
    return kept


def _legend(curves: list[Curve]) -> list[Line2D]:
    passes = [Line2D([], [], color=COLORS[what], label=what) for what in unique(curve.what for curve in curves)]
    ways = [Line2D([], [], color=INK, linestyle=STYLES[who], label=who) for who in unique(c.who for c in curves)]
    return [*passes, *ways, Line2D([], [], color=FAINT, linewidth=0.8, label="arithmetic floor, float32")]

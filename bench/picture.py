"""Draws the times of the meta-iterations in units of maml_fast's: a panel per workload, a bar per peer."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from measurements import machine_of, rows_of, unique
from peers import GRAPHED, OURS

from maml_fast.train._plots import GRID
from maml_fast.train._tiles import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS_COLOR, PEER_COLOR, FLOOR_COLOR = "#e4572e", "#9fb3c8", "#243b53"
BAR, GAP, TITLE, CAPTION = 0.27, 0.8, 0.5, 0.55  # inches: a bar, between panels, above them, below
COLUMNS, WIDTH = 2, 14.5

Row = dict[str, Any]


def draw(record: dict[str, Any]) -> bytes:
    """Return a PNG of medians and quartiles, in units of maml_fast's; the dashed line is the arithmetic floor."""
    rows = [row for row in rows_of(record, "iteration") if row["median_ms"] is not None]
    panels = [[row for row in rows if row["subject"] == subject] for subject in unique(row["subject"] for row in rows)]
    columns = min(COLUMNS, len(panels))
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [BAR * max(map(len, line)) + GAP for line in lines]
    height = TITLE + sum(heights) + CAPTION
    between = (0, CAPTION / height, 1, sum(heights) / height)
    layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.12, rect=between)
    figure = Figure(figsize=(WIDTH * columns / COLUMNS, height), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    title = "One meta-training iteration, as a multiple of maml_fast's time: shorter is better"
    figure.text(0.012, 1 - 0.14 / height, title, va="top", fontsize=14, fontweight="bold", color=INK)
    axes = list(figure.subplots(len(lines), columns, height_ratios=heights, squeeze=False).flat)
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    caption = _caption(record)
    figure.text(0.012, 0.1 / height, caption, fontsize=8.5, color=FAINT, linespacing=1.5, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _draw_panel(ax: Axes, rows: list[Row]) -> None:
    unit = next((row["median_ms"] for row in rows if row["who"] == OURS.title), rows[0]["median_ms"])
    widest = max(row["quartiles_ms"][1] for row in rows) / unit
    for place, row in enumerate(rows):
        is_ours = row["who"] in (OURS.title, GRAPHED.title)
        median, low, high = (value / unit for value in (row["median_ms"], *row["quartiles_ms"]))
        ax.barh(place, median, height=0.68, color=OURS_COLOR if is_ours else PEER_COLOR, zorder=2)
        ax.plot([low, high], [place, place], color=INK, linewidth=1.2, alpha=0.7, zorder=3)
        ax.text(
            max(median, high) + 0.012 * widest,
            place,
            _milliseconds(row["median_ms"]) if median == 1 else f"{median:.1f}×   {_milliseconds(row['median_ms'])}",
            va="center",
            color=INK,
            fontsize=9,
            fontweight="bold" if is_ours else "normal",
        )
    ax.axvline(rows[0]["floor_ms"] / unit, color=FLOOR_COLOR, linewidth=1.1, linestyle=(0, (4, 3)), zorder=4)
    ax.set_title(f"{rows[0]['subject']}   {rows[0]['what']}", loc="left", fontsize=10, color=INK)
    ax.set_yticks(range(len(rows)), [row["who"] for row in rows], fontsize=9, color=INK)
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.set_xlim(0, 1.27 * widest)
    ax.tick_params(length=0, axis="y")
    style(ax)


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 20 else f"{value:,.1f} ms"


def style(ax: Axes) -> None:
    """Remove the frame, and draw a faint grid."""
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0, which="both")
    ax.tick_params(colors=FAINT, labelsize=9, axis="x")
    ax.grid(axis="x", color=GRID, linewidth=0.9, zorder=0)
    ax.set_axisbelow(True)


def _caption(record: dict[str, Any]) -> str:
    machine, backend = record["machine"], record["backend"]
    native = "native kernels" if backend["name"] == "native" else "NATIVE KERNELS NOT ACTIVE: pure PyTorch"
    return (
        f"Bars: medians, with quartiles. Dashed: the arithmetic floor at the machine's sgemm peak, "
        f"{record['floor_gflops']:.0f} GFLOP/s.\n"
        f"{machine_of(record)}; torch {machine['torch']}; "
        f"maml_fast: {native}; {record['date'][:10]}."
    )

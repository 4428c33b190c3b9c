"""The meta-iterations as a picture: a panel for every workload, a bar for everyone."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from measurements import rows_of, unique
from peers import OURS

from maml_fast.train.plots import FAINT, GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS_COLOUR, PEER_COLOUR, FLOOR_COLOUR = "#e4572e", "#9fb3c8", "#243b53"
BAR, GAP, TITLE, CAPTION = 0.34, 0.85, 0.5, 0.55  # inches: a bar, between panels, above them, below

Row = dict[str, Any]


def draw(record: dict[str, Any]) -> bytes:
    """PNG of the medians with their quartiles; the dashed line is the arithmetic floor."""
    rows = [row for row in rows_of(record, "iteration") if row["median_ms"] is not None]
    panels = [[row for row in rows if row["subject"] == subject] for subject in unique(row["subject"] for row in rows)]
    heights = [BAR * len(panel) + GAP for panel in panels]
    height = TITLE + sum(heights) + CAPTION
    between = (0, CAPTION / height, 1, sum(heights) / height)
    layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.12, rect=between)
    figure = Figure(figsize=(9.5, height), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    title = "One meta-training iteration, in milliseconds: shorter is better"
    figure.text(0.012, 1 - 0.14 / height, title, va="top", fontsize=14, fontweight="bold", color=INK)
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, panel in zip(axes, panels, strict=True):
        _draw_panel(ax, panel)
    caption = _caption(record)
    figure.text(0.012, 0.1 / height, caption, fontsize=8.5, color=FAINT, linespacing=1.5, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _draw_panel(ax: Axes, rows: list[Row]) -> None:
    ours = next((row["median_ms"] for row in rows if row["who"] == OURS.title), None)
    widest = max(row["quartiles_ms"][1] for row in rows)
    for place, row in enumerate(rows):
        is_ours = row["who"] == OURS.title
        median, (low, high) = row["median_ms"], row["quartiles_ms"]
        ax.barh(place, median, height=0.66, color=OURS_COLOUR if is_ours else PEER_COLOUR, zorder=2)
        ax.plot([low, high], [place, place], color=INK, linewidth=1.2, alpha=0.7, zorder=3)
        text = f"{median:,.0f} ms" if median >= 20 else f"{median:,.1f} ms"
        if ours is not None and not is_ours:
            text += f"   {median / ours:.1f}×"
        ax.text(
            max(median, high) + 0.012 * widest,
            place,
            text,
            va="center",
            color=INK,
            fontsize=10,
            fontweight="bold" if is_ours else "normal",
        )
    ax.axvline(rows[0]["floor_ms"], color=FLOOR_COLOUR, linewidth=1.1, linestyle=(0, (4, 3)), zorder=4)
    ax.set_title(f"{rows[0]['subject']}   {rows[0]['what']}", loc="left", fontsize=11, color=INK)
    ax.set_yticks(range(len(rows)), [row["who"] for row in rows], fontsize=10, color=INK)
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.set_xlim(0, 1.2 * widest)
    _style(ax)


def _style(ax: Axes) -> None:
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.tick_params(length=0, colors=FAINT, labelsize=9, axis="x")
    ax.tick_params(length=0, axis="y")
    ax.grid(axis="x", color=GRID, linewidth=0.9, zorder=0)
    ax.set_axisbelow(True)


def _caption(record: dict[str, Any]) -> str:
    machine, backend = record["machine"], record["backend"]
    native = "native kernels" if backend["name"] == "native" else "NATIVE KERNELS NOT ACTIVE: pure PyTorch"
    return (
        f"Bars: medians, with quartiles. ×: times maml_fast. Dashed: the arithmetic floor at the machine's sgemm peak, "
        f"{record['floor_gflops']:.0f} GFLOP/s.\n"
        f"{machine['processor']}, {machine['cores']} cores, {record['threads']} threads; torch {machine['torch']}; "
        f"maml_fast: {native}; {record['date'][:10]}."
    )

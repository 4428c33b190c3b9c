"""The report's part on long inner loops: a table and a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from measurements import rows_of, unique
from picture import OURS_COLOR, PEER_COLOR, style
from tables import NOTHING, number, ratio, table, times

from maml_fast.train._tiles import INK

Row = dict[str, Any]

PANELS = {"MiB at the peak": "peak_mib", "seconds": "median_ms"}
COLORS = (PEER_COLOR, OURS_COLOR)


def inner_memory(rows: Sequence[Row]) -> str:
    """A line for every net, number of steps, and way to keep them."""
    lines = []
    for row in rows:
        own = [each for each in rows if each["subject"] == row["subject"]]
        all_kept = next((each for each in own if (each["what"], each["at"]) == (own[0]["what"], row["at"])), row)
        fewest = next(each for each in own if each["what"] == row["what"])
        parity = row["parity"] or {}
        lines.append(
            [
                row["subject"],
                f"{row['at']:.0f}",
                row["what"],
                number(row["peak_mib"], ".1f"),
                ratio(row["peak_mib"], fewest["peak_mib"]),
                times(row),
                ratio(row["median_ms"], all_kept["median_ms"]),
                ", ".join(f"{error:.0e}" for error in parity.values()) or NOTHING,
            ]
        )
    head = ["net", "inner steps", "in memory", "peak MiB", "÷ fewest steps", "ms (quartiles)", "÷ all in memory"]
    head.append("parity: loss, meta-gradient")
    text = (
        "One meta-iteration at order 2 on two tasks, each in a process of its own. `inner_memory` says how many inner "
        "steps' graphs are in memory at once; the others are computed again. *Peak* is what the iteration adds to the "
        "process. *Parity* is against all steps in memory, in float64."
    )
    return f"## Memory of inner steps\n\n{text}\n\n{table(head, lines)}"


def draw(record: dict[str, Any]) -> bytes:
    """Return a PNG of memory (above) and time (below) over the number of inner steps, on logarithmic axes."""
    rows = rows_of(record, "inner memory")
    subjects, ways = (unique(row[key] for row in rows) for key in ("subject", "what"))
    figure = Figure(figsize=(4.2 * len(subjects), 6.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Inner steps kept in memory", x=0.012, ha="left", fontsize=14, fontweight="bold", color=INK)
    axes = figure.subplots(2, len(subjects), squeeze=False)
    for line, (label, key) in zip(axes, PANELS.items(), strict=True):
        for ax, subject in zip(line, subjects, strict=True):
            for way, color in zip(ways, COLORS, strict=False):
                own = [row for row in rows if (row["subject"], row["what"]) == (subject, way) and row[key] is not None]
                values = [row[key] / (1e3 if key == "median_ms" else 1) for row in own]
                ax.plot([row["at"] for row in own], values, color=color, marker="o", markersize=3, label=way)
            ax.set_xscale("log")
            ax.set_yscale("log")
            steps = [row["at"] for row in rows if (row["subject"], row["what"]) == (subject, ways[0])]
            ax.set_xticks(steps, [f"{each:g}" for each in steps])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set_xlabel("inner steps", fontsize=9, color=INK)
            ax.set_title(f"{subject}: {label}", loc="left", fontsize=10, color=INK)
            style(ax)
    axes[0][0].legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()

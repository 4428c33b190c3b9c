"""The zoo as one picture: a dot for each net, at its speedup over the plain loop at second order.

python bench/zoo_picture.py bench/results/2026-12-01-amd-epyc-2-cores-avx2-zoo/bench.json docs/pictures/zoo.svg
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from measurements import rows_of, unique
from peers import OURS, TRUTH
from tables import ratio
from zoo import conv4, mlps, resnets, sequences
from zoo_section import ratios_of_pairs

FAMILIES = {
    "Conv4 and its variants": conv4.NETS,
    "residual, separable, U-Net": resnets.NETS,
    "perceptrons, sine waves": mlps.NETS,
    "recurrent, attention, 1-D": sequences.NETS,
}
TICKS = (1, 2, 5, 10, 20, 40)
LEFT, RIGHT, WIDTH = 210, 820, 860  # pixels: where 1x and the last tick stand, and of the whole picture
TOP, ROW, BOTTOM = 64, 84, 40
RADIUS = 4
INK, FAINT, GRID, DOT, SLOWER = "#263238", "#607d8b", "#cfd8dc", "#3f51b5", "#e4572e"


def draw(record: dict[str, Any]) -> str:
    """SVG of a record's zoo."""
    speedups = speedups_of(record)
    height = TOP + ROW * len(FAMILIES) + BOTTOM
    processor, cores = record["machine"]["processor"], record["machine"]["cores"]
    title = f"Times as fast as a loop over the tasks in plain PyTorch: {len(speedups)} networks"
    note = f"second order, {cores} cores of an {processor}, {record['date'][:10]}; medians"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>',
        _text(20, 26, title, fill=INK, size=15, weight=600),
        _text(20, 45, note, fill=FAINT, size=12),
    ]
    for tick in TICKS:
        x = _across(tick)
        line = INK if tick == 1 else GRID
        parts.append(f'<path d="M{x:.1f} {TOP}V{height - BOTTOM}" stroke="{line}"/>')
        parts.append(_text(x, height - BOTTOM + 18, f"{tick}×", fill=FAINT, anchor="middle"))
    for number, (family, nets) in enumerate(FAMILIES.items()):
        middle = TOP + ROW * (number + 0.5)
        parts.append(_text(20, middle + 4, family, fill=INK))
        parts += _dots({net: speedups[net] for net in nets if net in speedups}, middle)
    return "\n".join([*parts, "</svg>\n"])


def speedups_of(record: dict[str, Any]) -> dict[str, float]:
    """The median speedup of each net at second order, by name."""
    rows = {(row["subject"], row["who"]): row for row in rows_of(record, "zoo") if row["at"] == 2}
    pairs = {net: (rows[net, OURS.title], rows[net, TRUTH.title]) for net in unique(net for net, _ in rows)}
    return {net: statistics.median(ratios_of_pairs(*pair)) for net, pair in pairs.items()}


def _dots(speedups: dict[str, float], middle: float) -> list[str]:
    """The nets of a family; dots that would overlap are stacked. The slowest and the fastest are named."""
    ordered = sorted(speedups, key=speedups.__getitem__)
    columns: dict[int, int] = {}  # the dots so far, by column of a dot's width
    parts = []
    for net in ordered:
        column = round(_across(speedups[net]) / (2 * RADIUS))
        place = columns[column] = columns.get(column, 0) + 1
        y = middle + (place // 2) * (2 * RADIUS + 1) * (-1 if place % 2 else 1)
        color = SLOWER if speedups[net] < 1 else DOT
        parts.append(
            f'<circle cx="{column * 2 * RADIUS}" cy="{y:.1f}" r="{RADIUS}" fill="{color}" fill-opacity="0.85">'
            f"<title>{net}: {ratio(speedups[net], 1)}</title></circle>"
        )
    for net, y, anchor in ((ordered[0], middle + 34, "start"), (ordered[-1], middle - 26, "end")):
        x = _across(speedups[net]) + (-RADIUS if anchor == "start" else RADIUS)
        parts.append(_text(x, y, f"{net} {ratio(speedups[net], 1)}", fill=FAINT, anchor=anchor, size=11))
    return parts


def _across(speedup: float) -> float:
    return LEFT + (RIGHT - LEFT) * math.log(speedup) / math.log(TICKS[-1])


def _text(x: float, y: float, text: str, *, fill: str, anchor: str = "start", size: int = 13, weight: int = 400) -> str:
    style = f'font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" {style}>{text}</text>'


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(draw(json.loads(source.read_text(encoding="utf8"))), encoding="utf8")

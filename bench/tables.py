"""Markdown tables, and the format of numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOTHING = "–"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns; a first cell equal to the one above is left empty."""
    shown = [list(line) for line in lines]
    for above, line in zip(lines, shown[1:], strict=False):
        if line[0] == above[0]:
            line[0] = ""
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    right = [any(line[i][:1].isdigit() for line in lines) for i in range(len(head))]  # numbers
    rule = ["-" * (width - 1) + ":" if r else "-" * width for width, r in zip(widths, right, strict=True)]
    padded = [
        [cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(line, widths, right, strict=True)]
        for line in (head, rule, *shown)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def times(row: dict[str, Any] | None) -> str:
    """Return median and quartiles, in milliseconds."""
    if row is None or row["median_ms"] is None:
        return NOTHING
    low, high = row["quartiles_ms"]
    digits = 0 if row["median_ms"] >= 100 else 1 if row["median_ms"] >= 10 else 2 if row["median_ms"] >= 1 else 3
    return f"{row['median_ms']:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def ratio(numerator: float | None, denominator: float | None) -> str:
    """Return the quotient, as in 5.3×."""
    if not numerator or not denominator:
        return NOTHING
    value = numerator / denominator
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}×"


def number(value: float | None, form: str) -> str:
    """Return the value in this format, or a dash."""
    return NOTHING if value is None else f"{value:{form}}"

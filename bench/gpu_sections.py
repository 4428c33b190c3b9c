"""The parts of a report on GPUs: how the time divides among kernels, and how near to the peak they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blocks import QUERY_OF_W3
from measurements import unique
from tables import NOTHING, number, table

Row = dict[str, Any]

HEAD = ["GPU busy, ms", "convolutions", "maml_fast's others", "PyTorch's", "idle", "TFLOP/s", "of peak"]
TEXT = (
    "By PyTorch's profiler, of one call. *Convolutions* are maml_fast's matrix products, *maml_fast's others* its "
    "batch norm, ReLU, pooling and sums, *PyTorch's* also its libraries' kernels, copies and fills: parts of the time "
    "without the profiler, *idle* what is left of it. *TFLOP/s* are the convolutions' own, counted as the floor does, "
    "without taps on padding, over the time of their kernels alone; *peak* is the measured matrix product's, above."
)


def iteration_kernels(rows: Sequence[Row], peak_gflops: float) -> str:
    """Return the section on whole iterations; empty if none was traced."""
    lines = [[row["subject"], row["who"], *_cells(row, peak_gflops)] for row in rows if row["kernels_ms"]]
    return _section("Where the GPU's time goes", ["workload", "who", *HEAD], lines, rows)


def block_kernels(rows: Sequence[Row], peak_gflops: float) -> str:
    """Return the section on single blocks, and on all blocks of the query set together."""
    traced = [row for row in rows if row["kernels_ms"]]
    lines = [[row["subject"], row["what"], *_cells(row, peak_gflops)] for row in traced]
    if (whole := _query_set(traced)) is not None:
        lines.append(["W3's query set, all four blocks", whole["what"], *_cells(whole, peak_gflops)])
    return _section("Kernels of the native blocks", ["block", "pass", *HEAD], lines, rows)


def _section(title: str, head: list[str], lines: Sequence[Sequence[str]], rows: Sequence[Row]) -> str:
    untraced = [f"- {reason}" for reason in unique(row["untraced"] for row in rows if row["untraced"])]
    parts = [f"{TEXT}\n\n{table(head, lines)}"] if lines else []
    parts += ["Not traced:\n\n" + "\n".join(untraced)] if untraced else []
    return "\n\n".join([f"### {title}", *parts]) if parts else ""


def _query_set(rows: Sequence[Row]) -> Row | None:
    """Return the sum of the query set's blocks, forward and backward; None if one of them is missing."""
    names = {block.name for block in QUERY_OF_W3}
    parts = [row for row in rows if row["subject"] in names and row["what"] == "backward"]
    if len(parts) < len(names):
        return None
    return {
        "what": "backward",
        "median_ms": sum(row["median_ms"] for row in parts),
        "product_gflop": sum(row["product_gflop"] for row in parts),
        "kernels_ms": {name: sum(row["kernels_ms"][name] for row in parts) for name in parts[0]["kernels_ms"]},
    }


def _cells(row: Row, peak_gflops: float) -> list[str]:
    kernels, whole = row["kernels_ms"], row["median_ms"]
    shares = [f"{kernels[name] / whole:.1%}" for name in ("products", "ours", "others")]
    idle = max(0.0, 1 - kernels["busy"] / whole)
    rate = row["product_gflop"] / kernels["products"] if kernels["products"] else None  # GFLOP / ms = TFLOP/s
    of_peak = NOTHING if rate is None else f"{1e3 * rate / peak_gflops:.1%}"
    return [number(kernels["busy"], ".3g"), *shares, f"{idle:.1%}", number(rate, ".1f"), of_peak]

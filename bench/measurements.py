"""What a run of the benchmarks has found, and the record of it that becomes JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

FORMAT = 2  # of the JSON
PRODUCTS = {"exact": "exact", "tf32": "in TF32"}  # in words


@dataclass
class Row:
    """One thing measured: ``who`` did ``what``. Sweeps add to it."""

    bench: str  # iteration, algorithms, zoo, op, sampler, scaling, chunks, inner memory, many tasks
    subject: str  # a workload's, an algorithm's, a block's or a curve's name
    what: str
    who: str
    at: float | None = None  # where on a curve; in the zoo the order
    flops: float | None = None
    seconds: list[float] = field(default_factory=list)
    parity: dict[str, float] | None = None  # relative errors
    peak_mib: float | None = None  # that training adds
    process_mib: float | None = None  # that the whole process holds then
    shares: dict[str, float] | None = None  # of all threads' time
    kernels: dict[str, float] | None = None  # seconds on a GPU: see gpu_kernels.KernelTimes
    product_flops: float | None = None  # of the convolutions alone
    untraced: str | None = None  # why there are no kernels
    tasks: int | None = None  # that the time is for
    ran: str | None = None  # what of maml_fast it ran on
    skipped: str | None = None  # why it was not run
    failed: str | None = None  # how

    @property
    def is_empty(self) -> bool:
        """Nothing was found, not even an obstacle: not asked for."""
        return not self.seconds and self.parity is None and self.skipped is None and self.failed is None

    def as_json(self, gflops: float) -> dict[str, Any]:
        """Plain types; times in milliseconds; ``gflops`` is the machine's speed."""
        milliseconds = sorted(1e3 * second for second in self.seconds)
        low, median, high = _quartiles(milliseconds) if milliseconds else (None, None, None)
        floor = None if self.flops is None else self.flops / gflops / 1e6
        return {
            "bench": self.bench,
            "subject": self.subject,
            "what": self.what,
            "who": self.who,
            "median_ms": median,
            "quartiles_ms": None if median is None else [low, high],
            "rounds": len(milliseconds),
            "times_ms": [1e3 * second for second in self.seconds],
            "gflop": None if self.flops is None else self.flops / 1e9,
            "floor_ms": floor,
            "over_floor": None if floor is None or median is None else median / floor,
            "parity": self.parity,
            "peak_mib": self.peak_mib,
            "process_mib": self.process_mib,
            "shares": self.shares,
            "kernels_ms": None if self.kernels is None else {name: 1e3 * s for name, s in self.kernels.items()},
            "product_gflop": None if self.product_flops is None else self.product_flops / 1e9,
            "untraced": self.untraced,
            "at": self.at,
            "tasks": self.tasks,
            "ran": self.ran,
            "skipped": self.skipped,
            "failed": self.failed,
        }


class Measurements:
    """The rows of a run, in the order in which they were asked for first."""

    def __init__(self) -> None:
        self._rows: dict[tuple[object, ...], Row] = {}

    def row(self, bench: str, subject: str, what: str, who: str, at: float | None = None) -> Row:
        """Return the row, new if need be."""
        return self._rows.setdefault((bench, subject, what, who, at), Row(bench, subject, what, who, at))

    def record(self, about: dict[str, Any], sgemm: dict[str, float]) -> dict[str, Any]:
        """Everything, in plain types: what was run, where, and the rows."""
        gflops = max(sgemm.values())
        rows = [row.as_json(gflops) for row in self._rows.values() if not row.is_empty]
        return {"format": FORMAT, **about, "sgemm_gflops": sgemm, "floor_gflops": gflops, "rows": rows}


def rows_of(record: dict[str, Any], bench: str) -> list[dict[str, Any]]:
    """The rows of one bench."""
    return [row for row in record["rows"] if row["bench"] == bench]


def machine_of(record: dict[str, Any]) -> str:
    """What computed, in words."""
    machine = record["machine"]
    host = f"{machine['processor']}, {machine['cores']} cores, {record['threads']} threads"
    if record["device"] == "cpu":
        return host
    return f"{machine['gpu']}, products of float32 {PRODUCTS[record['precision']]}; {host}"


def unique(values: Iterable[str]) -> list[str]:
    """The values without repetitions, in order."""
    return list(dict.fromkeys(values))


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high

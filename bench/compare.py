"""Compares two records: what got slower by more than the spread of both. A program of its own, without pytest.

A row is slower if its lower quartile is above the upper quartile in the other record; rows with too few rounds for
quartiles are left out. The exit code is 1 if a row of maml_fast is slower, 0 if none is, and 2 if the records can't be
compared. Peers that got slower are listed too: they indicate that the machine was slower.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measurements import FORMAT
from tables import NOTHING, ratio, table, times

FEWEST_ROUNDS = 3
OURS = ("maml_fast", "maml_fast, CUDA graph", "native", "reference", "float32", "float64", "float32, AVX2")

Record = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A row of both records whose quartiles do not overlap."""

    old: Row
    new: Row

    @property
    def is_slower(self) -> bool:
        return self.new["median_ms"] > self.old["median_ms"]

    @property
    def is_ours(self) -> bool:
        return self.new["who"] in OURS

    def cells(self) -> list[str]:
        row = self.new
        where = "" if row["at"] is None else f" at {row['at']:g}"
        what = f"{row['bench']}: {row['subject']}, {row['what']}{where}"
        return [what, row["who"], times(self.old), times(row), ratio(row["median_ms"], self.old["median_ms"])]


def main(old: Path, new: Path) -> int:
    """Print the comparison; return the exit code."""
    try:
        before, after = read(old), read(new)
    except (OSError, ValueError) as error:
        print(f"maml-fast: error: {error}", file=sys.stderr)
        return 2
    changes = list(changes_between(before, after))
    print(report(before, after, changes), end="")
    return int(any(change.is_slower and change.is_ours for change in changes))


def read(path: Path) -> Record:
    """Read a record; raise ValueError if the file is not a record, or has another format."""
    try:
        record = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a record of maml-fast bench: {error}") from None
    if not isinstance(record, dict) or "rows" not in record:
        raise ValueError(f"{path} is not a record of maml-fast bench: give the bench.json that it wrote")
    if record.get("format") != FORMAT:
        raise ValueError(f"{path} has format {record.get('format')}, this version compares format {FORMAT}")
    return record


def changes_between(old: Record, new: Record) -> Iterator[Change]:
    """Return the rows that differ by more than their spreads."""
    before = _by_name(old)
    for name, row in _by_name(new).items():
        if name in before:
            change = Change(before[name], row)
            faster, slower = sorted((change.old, change.new), key=lambda each: each["median_ms"])
            if slower["quartiles_ms"][0] > faster["quartiles_ms"][1]:
                yield change


def _by_name(record: Record) -> dict[tuple[Any, ...], Row]:
    """Return the rows that have quartiles, by what identifies them."""
    names = ("bench", "subject", "what", "who", "at")
    return {tuple(row[name] for name in names): row for row in record["rows"] if row["rounds"] >= FEWEST_ROUNDS}


def report(old: Record, new: Record, changes: list[Change]) -> str:
    """Return the comparison as Markdown."""
    parts = [f"# {old['date'][:10]} against {new['date'][:10]}", *_differences(old, new), _counts(old, new)]
    groups = {
        "Slower": [change for change in changes if change.is_ours and change.is_slower],
        "Faster": [change for change in changes if change.is_ours and not change.is_slower],
        "Peers": [change for change in changes if not change.is_ours],
    }
    for title, group in groups.items():
        lines = [change.cells() for change in group]
        parts.append(
            f"## {title}\n\n{table(['row', 'who', 'old, ms', 'new, ms', 'new ÷ old'], lines) if lines else NOTHING}"
        )
    return "\n\n".join(parts) + "\n"


def _differences(old: Record, new: Record) -> Iterator[str]:
    """List the conditions that differ: a difference in time may come from them."""
    sides = [_surroundings(record) for record in (old, new)]
    lines = [
        f"> - {name}: {sides[0].get(name, NOTHING)} → {sides[1].get(name, NOTHING)}"
        for name in dict.fromkeys([*sides[0], *sides[1]])
        if sides[0].get(name) != sides[1].get(name)
    ]
    if lines:
        yield "\n".join(["> **Not measured under equal conditions:**", *lines])


def _surroundings(record: Record) -> dict[str, Any]:
    machine = {name: record["machine"][name] for name in ("processor", "cores", "platform", "python", "torch", "numpy")}
    settings = {"quick mode": record["settings"]["quick"], "complete": record["complete"]}
    backend = {"backend": record["backend"]["name"], "kernels": record["backend"]["reason"]}
    return {**machine, **_device(record), **record["libraries"], "threads": record["threads"], **backend, **settings}


def _device(record: Record) -> dict[str, Any]:
    device = record.get("device", "cpu")  # older records have none
    if device == "cpu":
        return {"device": device}
    return {"device": device, "GPU": record["machine"]["gpu"], "precision": record["precision"]}


def _counts(old: Record, new: Record) -> str:
    before, after = _by_name(old).keys(), _by_name(new).keys()
    (old_version, old_peak), (new_version, new_peak) = (
        (record["machine"]["maml_fast"], record["floor_gflops"]) for record in (old, new)
    )
    lines = [
        f"maml_fast {old_version} → {new_version}",
        f"sgemm peak {old_peak:.0f} → {new_peak:.0f} GFLOP/s",
        f"{len(before & after)} rows compared; {len(before - after)} are only in the old record, "
        f"{len(after - before)} only in the new one",
    ]
    return "\n".join(f"- {line}" for line in lines)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))

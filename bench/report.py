"""A record in Markdown, and the files that a run leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import picture
from measurements import rows_of, unique
from peers import OURS

from maml_fast.cli.benchmark import RECORD
from maml_fast.data.files import write_atomically

TABLE, PICTURE = "bench.md", "bench.png"
FILES = (RECORD, TABLE, PICTURE)
NOTHING = "–"

Record = dict[str, Any]
Row = dict[str, Any]


def write(record: Record, folder: Path) -> None:
    """Write the JSON, the table, and the picture where an iteration was timed."""
    write_atomically(folder / RECORD, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(folder / TABLE, markdown(record).encode())
    if any(row["median_ms"] for row in rows_of(record, "iteration")):
        write_atomically(folder / PICTURE, picture.draw(record))


def markdown(record: Record) -> str:
    """The whole record as text, notices first."""
    parts = [f"# maml_fast bench, {record['date'][:10]}", *_notices(record), _machine(record)]
    parts += [section(rows) for name, section in _SECTIONS.items() if (rows := _relevant(record, name))]
    return "\n\n".join(parts) + "\n"


def _relevant(record: Record, bench: str) -> list[Row]:
    rows = rows_of(record, bench)
    return rows_of(record, "iteration") + rows if bench == "sampler" and rows else rows


def _notices(record: Record) -> Iterable[str]:
    if record["backend"]["name"] != "native":
        yield (
            "> **The native kernels are not active**, so maml_fast ran on pure PyTorch here: "
            f"{record['backend']['reason']}."
        )
    if not record["complete"]:
        yield "> **Not everything was run, or something failed**: see pytest's output."
    if record["settings"]["quick"]:
        yield "> Quick mode: tiny workloads, to see that everything works. The times mean nothing."


def _machine(record: Record) -> str:
    machine, sgemm = record["machine"], record["sgemm_gflops"]
    before, after = record["load_average_before"][0], record["load_average_after"][0]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {record['threads']} threads, {machine['platform']}",
        f"maml_fast {machine['maml_fast']}, backend {record['backend']['name']} ({record['backend']['reason']})",
        f"Python {machine['python']}, torch {machine['torch']}, NumPy {machine['numpy']}",
        f"load average {before:.1f} before and {after:.1f} after; {record['minutes']:.1f} minutes, "
        f"{record['settings']['sweeps']} sweeps of {record['settings']['seconds']:g} s a measurement",
        f"sgemm peak {record['floor_gflops']:.0f} GFLOP/s (NumPy {sgemm['numpy']:.0f}, torch {sgemm['torch']:.0f}): "
        "the floor of a row is its arithmetic by direct convolution at this speed",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _iteration(rows: Sequence[Row]) -> str:
    ours = {row["subject"]: row["median_ms"] for row in rows if row["who"] == OURS.title}
    lines = []
    for row in rows:
        if row["median_ms"] is None and row["skipped"] is None and row["peak_mib"] is None:
            continue
        first = row["who"] == OURS.title
        lines.append(
            [
                f"{row['subject']}: {row['what']}",
                f"**{row['who']}**" if first else row["who"],
                f"not run: {row['skipped']}" if row["skipped"] and not row["rounds"] else _times(row),
                _ratio(row["median_ms"], ours.get(row["subject"])),
                _ratio(row["median_ms"], row["floor_ms"]),
                _number(row["peak_mib"], ".0f"),
                _parity(row),
            ]
        )
    head = ["workload", "who", "ms (quartiles)", "÷ maml_fast", "÷ floor", "peak MiB", "parity: loss, meta-gradient"]
    text = (
        "A row is one whole iteration: inner loops, query loss, meta-gradient, Adam; float32. *Parity* is the largest "
        "relative difference between the row and maml_fast (in its own row: the per-task loop), in float64."
    )
    return f"## Meta-training iteration\n\n{_table(head, lines)}\n\n{text}"


def _op(rows: Sequence[Row]) -> str:
    everyone = unique(row["who"] for row in rows)
    fastest_of_ours = "native" if "native" in everyone else "reference"
    found = {(row["subject"], row["what"], row["who"]): row for row in rows}
    lines = []
    for subject, what in dict.fromkeys((row["subject"], row["what"]) for row in rows):
        each = {who: found.get((subject, what, who)) for who in everyone}
        best, torchs = each.get(fastest_of_ours), each.get("per-task torch")
        lines.append(
            [
                subject,
                what,
                *(NOTHING if row is None else _times(row) for row in each.values()),
                _ratio(_median(torchs), _median(best)),
                _ratio(_median(best), None if best is None else best["floor_ms"]),
                _number(max(row["parity"]["values"] for row in each.values() if row and row["parity"]), ".0e"),
            ]
        )
    ratios = [f"torch ÷ {fastest_of_ours}", f"{fastest_of_ours} ÷ floor", "parity"]
    head = ["block", "pass", *(f"{who}, ms (quartiles)" for who in everyone), *ratios]
    text = "A pass includes those before it: *double backward* is forward, backward and double backward."
    return f"## Conv block\n\n{_table(head, lines)}\n\n{text}"


def _sampler(rows: Sequence[Row]) -> str:
    iteration = {r["subject"]: r["median_ms"] for r in rows if r["bench"] == "iteration" and r["who"] == OURS.title}
    lines = []
    for row in sorted(rows, key=lambda row: row["subject"]):  # making and waiting side by side
        if row["bench"] == "sampler":
            whole = iteration.get(row["subject"])
            known = whole is not None and row["median_ms"] is not None
            share = f"{row['median_ms'] / whole:.2%}" if known else NOTHING
            lines.append([row["subject"], row["what"], row["who"], _times(row), share])
    head = ["workload", "what", "backend", "ms (quartiles)", "share of maml_fast's iteration"]
    text = "Episodes are equal to the bit on both backends."
    return f"## Sampler\n\n{_table(head, lines)}\n\n{text}"


_SECTIONS = {"iteration": _iteration, "op": _op, "sampler": _sampler}


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; a first cell equal to the one above is left empty."""
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


def _times(row: Row) -> str:
    if row["median_ms"] is None:
        return NOTHING
    low, high = row["quartiles_ms"]
    digits = 0 if row["median_ms"] >= 100 else 1 if row["median_ms"] >= 10 else 2 if row["median_ms"] >= 1 else 3
    return f"{row['median_ms']:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _median(row: Row | None) -> float | None:
    return None if row is None else row["median_ms"]


def _ratio(numerator: float | None, denominator: float | None) -> str:
    if not numerator or not denominator:
        return NOTHING
    ratio = numerator / denominator
    return f"{ratio:.{0 if ratio >= 100 else 1 if ratio >= 10 else 2}f}×"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else f"{value:{form}}"


def _parity(row: Row) -> str:
    parity = row["parity"]
    return NOTHING if parity is None else f"{parity['loss']:.0e}, {parity['gradient']:.0e}"

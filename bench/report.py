"""Writes a record as JSON and Markdown, with its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import curves
import inner_memory_section
import picture
import sections
from measurements import machine_of, rows_of

from maml_fast.cli._benchmark import RECORD
from maml_fast.data._files import write_atomically

TABLE, PICTURE, CURVES, MEMORY = "bench.md", "bench.png", "scaling.png", "inner_memory.png"
SGEMM = {"numpy": "NumPy"}  # who multiplies, where the record's name for it is not for people

Record = dict[str, Any]


def write(record: Record, folder: Path) -> list[str]:
    """Write the JSON, the tables, and the pictures of what was timed; return the files' names."""
    files = {RECORD: (json.dumps(record, indent=1, allow_nan=False) + "\n").encode(), TABLE: markdown(record).encode()}
    if any(row["median_ms"] for row in rows_of(record, "iteration")):
        files[PICTURE] = picture.draw(record)
    if any(row["median_ms"] for row in rows_of(record, "scaling")):
        files[CURVES] = curves.draw(record)
    if rows_of(record, "inner memory"):
        files[MEMORY] = inner_memory_section.draw(record)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return list(files)


def markdown(record: Record) -> str:
    """The whole record as text, notices first."""
    parts = [f"# maml_fast bench, {record['date'][:10]}", *_notices(record), _machine(record), *sections.all_of(record)]
    return "\n\n".join(parts) + "\n"


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
    machine = record["machine"]
    before, after = record["load_average_before"][0], record["load_average_after"][0]
    peaks = ", ".join(f"{SGEMM.get(name, name)} {gflops:.0f}" for name, gflops in record["sgemm_gflops"].items())
    libraries = "".join(f", {name} {version}" for name, version in record["libraries"].items())
    lines = [
        f"{machine_of(record)}, {machine['platform']}",
        f"maml_fast {machine['maml_fast']}, backend {record['backend']['name']} ({record['backend']['reason']})",
        f"Python {machine['python']}, torch {machine['torch']}, NumPy {machine['numpy']}{libraries}",
        f"load average {before:.1f} before and {after:.1f} after; {record['minutes']:.1f} minutes, "
        f"{record['settings']['sweeps']} sweeps of {record['settings']['seconds']:g} s a measurement",
        f"sgemm peak {record['floor_gflops']:.0f} GFLOP/s ({peaks}): "
        "the floor of a row is its arithmetic by direct convolution at this speed",
    ]
    return "\n".join(f"- {line}" for line in lines)

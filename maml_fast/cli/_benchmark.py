"""Runs the benchmarks, a pytest suite of their own: ``bench/`` in a checkout, ``maml_fast/bench`` when installed."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from maml_fast.train._record import describe_machine

__all__ = ["claim", "compare", "default_out", "folder", "run"]

NEEDED = ("pytest", "pytest_benchmark")
RECORD = "bench.json"


def run(
    *,
    quick: bool = False,
    out: Path | None = None,
    sweeps: int | None = None,
    seconds: float | None = None,
    workloads: str | None = None,
    peers: str | None = None,
    device: str = "cpu",
    precision: str = "exact",
    pytest_arguments: Sequence[str] = (),
) -> int:
    """Run the benchmarks, write JSON, Markdown tables and pictures, and return pytest's exit code.

    Args:
        quick: run tiny workloads for a few minutes, only to check that everything works.
        out: new folder for the record; by default a fresh ``bench/results/<date>-<machine>`` under the working folder.
        sweeps: how many times everything is measured.
        seconds: the approximate length of each measurement.
        workloads: run only these, for example ``"W1,W3-order2,A-anil"``.
        peers: compare maml_fast only with these, for example ``"loop,vmap"``.
        device: where to compute, ``"cpu"`` or ``"cuda"``; on cuda iterations, conv blocks and scaling are measured.
        precision: of float32 products on cuda, for all peers: ``"exact"`` or ``"tf32"``.
        pytest_arguments: for example ``("-k", "sampler")``.

    Raises:
        RuntimeError: pytest or pytest-benchmark is not installed.
        FileNotFoundError: the benchmarks themselves are missing.
        FileExistsError, OSError: ``out`` already holds a record, or can't be written.
    """
    missing = [name.replace("_", "-") for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(f"{' and '.join(missing)} not installed: pip install 'maml_fast[bench]'")
    suite = folder()
    out = claim(default_out(device=device, precision=precision) if out is None else out)
    options = ["--quick"] if quick else []
    given = {"sweeps": sweeps, "seconds": seconds, "workloads": workloads, "peers": peers}
    given |= {"device": device, "precision": precision}
    options += [f"--{name}={value}" for name, value in given.items() if value is not None]
    options += [f"--out={out}", f"--benchmark-storage=file://{out}"]  # otherwise pytest-benchmark makes its own folder
    code = _call([sys.executable, "-m", "pytest", str(suite), *options, *pytest_arguments])
    if not any(out.iterdir()):
        out.rmdir()  # nothing was run
    return code


def compare(old: Path, new: Path) -> int:
    """Print the differences between two records that exceed their spread.

    Returns:
        1 if maml_fast got slower anywhere, 2 if a file is not a record of this format, else 0.
    """
    return _call([sys.executable, str(folder() / "compare.py"), str(old), str(new)])


def _call(command: Sequence[str]) -> int:
    """Return the command's exit code. After Ctrl-C, wait until the command has written its results so far."""
    with subprocess.Popen(command) as process:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()
        return process.wait()


def folder() -> Path:
    """Return the suite's folder: inside an installed package, next to the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for found in (package / "bench", package.parent / "bench"):
        if (found / "conftest.py").is_file():
            return found
    raise FileNotFoundError(f"the benchmarks are missing from {package / 'bench'}: install maml_fast again")


def default_out(parent: Path | str = "bench/results", *, device: str = "cpu", precision: str = "exact") -> Path:
    """Return the first folder ``<date>-<machine>``, ``<date>-<machine>-2``, ... that does not exist."""
    machine = describe_machine(device)
    processor = re.sub(r"\(r\)|\(tm\)|\bcpu\b|\bprocessor\b|\d+-core|@.*", " ", str(machine["processor"]).lower())
    computer = f"{processor}-{machine['cores']}-cores" if device == "cpu" else f"{machine['gpu'] or device}-{precision}"
    name = re.sub(r"[^a-z0-9]+", "-", f"{date.today()}-{computer}".lower()).strip("-")
    number = 1
    while (path := Path(parent, name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def claim(out: Path) -> Path:
    """Make the folder ``out`` before any work is done; raise OSError if it can't be used."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".probe").touch()
        (out / ".probe").unlink()
    except OSError as error:
        raise OSError(f"the folder {out} can't be written: {error.strerror}; choose another with --out") from error
    if (out / RECORD).exists():
        raise FileExistsError(f"the folder {out} holds a record already; choose another with --out")
    return out

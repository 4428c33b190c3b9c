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
    """Run the benchmarks; write JSON, Markdown tables and pictures; return pytest's exit code.

    Args:
        quick: tiny workloads, only to see that everything works: a few minutes.
        out: new folder for the record; by default a fresh ``bench/results/<date>-<machine>`` under the working folder.
        sweeps: how often everything is measured.
        seconds: for how long each time, about.
        workloads: these alone, such as ``"W1,W3-order2,A-anil"``.
        peers: maml_fast and these alone, such as ``"loop,vmap"``.
        device: where to compute, ``"cpu"`` or ``"cuda"``; on cuda iterations, conv blocks and scaling are measured.
        precision: of products of float32 on cuda: ``"exact"``, or ``"tf32"``, in everybody's.
        pytest_arguments: for example ``("-k", "sampler")``.

    Raises:
        RuntimeError: pytest or pytest-benchmark is not installed.
        FileNotFoundError: the benchmarks themselves are missing.
        FileExistsError, OSError: ``out`` holds a record already, or can't be written.
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
    options += [f"--out={out}", f"--benchmark-storage=file://{out}"]  # else pytest-benchmark leaves a folder of its own
    code = _call([sys.executable, "-m", "pytest", str(suite), *options, *pytest_arguments])
    if not any(out.iterdir()):
        out.rmdir()  # nothing was run
    return code


def compare(old: Path, new: Path) -> int:
    """Print what differs between two records by more than their spread.

    Returns:
        1 if something of maml_fast's got slower, 2 if a file is no record of this format, else 0.
    """
    return _call([sys.executable, str(folder() / "compare.py"), str(old), str(new)])


def _call(command: Sequence[str]) -> int:
    """Return the command's exit code. Ctrl-C reaches the command too, which then writes what it has: wait for that."""
    with subprocess.Popen(command) as process:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()
        return process.wait()


def folder() -> Path:
    """Return the suite's folder: inside an installed package, beside the package in a checkout."""
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
    """Make the folder ``out``, before work is lost; raise an OSError that says so where it can't be used."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".probe").touch()
        (out / ".probe").unlink()
    except OSError as error:
        raise OSError(f"the folder {out} can't be written: {error.strerror}; choose another with --out") from error
    if (out / RECORD).exists():
        raise FileExistsError(f"the folder {out} holds a record already; choose another with --out")
    return out

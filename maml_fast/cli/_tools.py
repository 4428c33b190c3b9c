"""The commands around training: data, the native build, benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from maml_fast.cli._errors import debug
from maml_fast.train._config import DEVICES

__all__ = ["bench", "build", "doctor", "prepare"]


@click.command()
@click.argument("dataset", type=click.Choice(("omniglot",)))
@click.option(
    "--root", required=True, type=click.Path(path_type=Path), help="Folder of the two zips, or of what was in them."
)
@click.option("--out", type=click.Path(path_type=Path), help="The .npy to write (default: beside the images).")
@click.option("--download", is_flag=True, help="Fetch the official archives into --root first.")
@debug
def prepare(dataset: str, root: Path, out: Path | None, download: bool) -> None:
    """Make one .npy of DATASET's images: (1623, 20, 1, 28, 28) bytes."""
    from maml_fast import data
    from maml_fast.cli._console import CountedProgress

    with CountedProgress(Console(stderr=True), f"prepare {dataset}") as progress:
        path = data.prepare_omniglot(root, out, download=download, progress=progress)
    click.echo(path)


@click.command()
@click.option("--force", is_flag=True, help="Compile even if the cache holds the library.")
@click.option("--verbose", is_flag=True, help="Show the compiler's output.")
@debug
def build(force: bool, verbose: bool) -> None:
    """Compile the native kernels for the installed PyTorch."""
    from maml_fast import native

    report = native.build(verbose=verbose, force=force)
    click.echo(f"{report.path}  ({'in the cache already' if report.cached else f'built in {report.seconds:.1f} s'})")


@click.command()
@debug
def doctor() -> None:
    """Print what runs here and why, and how to get what is missing."""
    from maml_fast.native._doctor import report

    click.echo(report())


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--quick", is_flag=True, help="Tiny workloads, to see that everything works: minutes.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="New folder for the record (default: a fresh one in bench/results/)."
)
@click.option("--sweeps", type=click.IntRange(1), help="How often everything is measured (default: 3).")
@click.option("--seconds", type=float, help="Seconds per measurement, about (default: 2).")
@click.option("--workloads", help="These alone, such as W1,W3-order2,A-anil (default: all).")
@click.option("--peers", help="maml_fast and these alone, such as loop,vmap (default: all).")
@click.option("--device", type=click.Choice(DEVICES), default="cpu", help="Where to compute (default: cpu).")
@click.option(
    "--precision",
    type=click.Choice(("exact", "tf32")),
    default="exact",
    help="Products of float32 on cuda (default: exact).",
)
@click.option(
    "--compare", nargs=2, type=click.Path(path_type=Path), help="Run nothing: compare two bench.json, old and new."
)
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
@debug
def bench(compare: tuple[Path, Path] | None, pytest_arguments: tuple[str, ...], **options: Any) -> None:
    """Time maml_fast against its peers, parity first; write JSON, tables and pictures.

    Further arguments go to pytest, which runs the benchmarks: -k sampler, for one. --compare OLD NEW exits with 1 if
    maml_fast got slower anywhere, beyond the spread of both.
    """
    from maml_fast.cli import _benchmark as benchmark

    if compare is not None:
        sys.exit(benchmark.compare(*compare))
    sys.exit(benchmark.run(pytest_arguments=pytest_arguments, **options))

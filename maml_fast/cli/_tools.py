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
    "--root", required=True, type=click.Path(path_type=Path), help="Folder of the two zips, or of their contents."
)
@click.option("--out", type=click.Path(path_type=Path), help="The .npy to write (default: next to the images).")
@click.option("--download", is_flag=True, help="Download the official archives into --root first.")
@debug
def prepare(dataset: str, root: Path, out: Path | None, download: bool) -> None:
    """Make one .npy of DATASET's images: (1623, 20, 1, 28, 28) bytes."""
    from maml_fast import data
    from maml_fast.cli._console import CountedProgress

    with CountedProgress(Console(stderr=True), f"prepare {dataset}") as progress:
        path = data.prepare_omniglot(root, out, download=download, progress=progress)
    click.echo(path)


@click.command()
@click.option("--force", is_flag=True, help="Compile even if the library is in the cache.")
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
    """Print which kernels run on this machine and why, and how to install what is missing."""
    from maml_fast.native._doctor import report

    click.echo(report())


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--quick", is_flag=True, help="Run tiny workloads for minutes, only to check that everything works.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="New folder for the record (default: a fresh one in bench/results/)."
)
@click.option("--sweeps", type=click.IntRange(1), help="How many times everything is measured (default: 3).")
@click.option("--seconds", type=float, help="Approximate seconds per measurement (default: 2).")
@click.option("--workloads", help="Run only these, for example W1,W3-order2,A-anil (default: all).")
@click.option("--peers", help="Compare only with these, for example loop,vmap (default: all).")
@click.option("--device", type=click.Choice(DEVICES), default="cpu", help="Where to compute (default: cpu).")
@click.option(
    "--precision",
    type=click.Choice(("exact", "tf32")),
    default="exact",
    help="Precision of float32 products on cuda (default: exact).",
)
@click.option(
    "--compare", nargs=2, type=click.Path(path_type=Path), help="Compare two bench.json, old and new, and run nothing."
)
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
@debug
def bench(compare: tuple[Path, Path] | None, pytest_arguments: tuple[str, ...], **options: Any) -> None:
    """Time maml_fast against its peers; write JSON, tables and pictures.

    Further arguments go to pytest, which runs the benchmarks, for example -k sampler. --compare OLD NEW exits with 1 if
    maml_fast got slower anywhere by more than the spread of both.
    """
    from maml_fast.cli import _benchmark as benchmark

    if compare is not None:
        sys.exit(benchmark.compare(*compare))
    sys.exit(benchmark.run(pytest_arguments=pytest_arguments, **options))

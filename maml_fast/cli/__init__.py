"""The command line: ``maml-fast train | recipes | reproduce | evaluate | adapt | predict | prepare | build | ...``.

Errors are one line and exit code 2 (``--debug`` shows the traceback); a stop by a signal exits with 128 + its number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from maml_fast.data._dataset import printable
from maml_fast.distributed._launch import is_first, is_told_by_another, launch
from maml_fast.train._config import CHOICES, TrainConfig
from maml_fast.train._recipes import DEFAULTS, RECIPES

__all__ = ["main"]

# Commands import what they need, so that `maml-fast --help` does not wait for matplotlib.

HELP: dict[str, str] = {
    "recipe": "A published training; options given beside it override it.",
    "dataset": "What to train on; strokes is embedded.",
    "root": "Folder of the data; for omniglot that of the two zips.",
    "split": "omniglot: tutorial, vinyals or finn; or a folder of split files.",
    "image_size": "Pixels per side (default: 28; cifar-fs and fc100 32; other data sets in color 84).",
    "channels": "Gray or color (default: L for folder, RGB for data sets in color).",
    "n_way": "Classes per episode.",
    "k_shot": "Support images per class.",
    "k_query": "Query images per class.",
    "meta_batch_size": "Episodes per meta-iteration.",
    "algorithm": "What learns.",
    "inner_optimizer": "Of the inner loop.",
    "head": "What a task's classifier starts from: a learned row for every class, zeros, one learned row, prototypes.",
    "batch_norm": "Scale, shift and statistics: of the batch, or each inner step's own (default: per_step for maml++).",
    "first_order_iterations": "So many iterations of order 1 come first (default: the algorithm's own).",
    "multi_step_iterations": "Iterations whose loss is of all inner steps (default: 5000 for maml++, else 0).",
    "inner_batch": "Images of an inner step; for reptile.",
    "distance": "Between embeddings; for protonet.",
    "meta_schedule": "How the outer step size falls: linear or cosine until the end, halving every 2000 iterations.",
    "least_meta_lr": "What it falls to.",
    "clip_value": "Bound for every number of the meta-gradient.",
    "clip_norm": "Bound for the meta-gradient's norm.",
    "eval_n_way": "Classes per evaluation episode (default: --n-way).",
    "inner_lr": "Step size of the inner loop (mean cross-entropy).",
    "inner_steps": "Inner steps in training.",
    "learn_inner_lr": "Meta-learn the inner step size too.",
    "adapted": "What adapts: head, or names, prefixes, globs with commas between (default: all).",
    "order": "2: through the inner loop; 1: first-order MAML.",
    "meta_lr": "Step size of the outer optimizer.",
    "iterations": "Meta-iterations of the whole run.",
    "seed": "Of the initial weights and of every episode.",
    "model": "The network.",
    "hidden": "Channels of conv4 and conv4-strided.",
    "scale": "Pixels: unit 0 to 1, raw 0 to 255, inverted 1 to 0.",
    "rotate": "Turn the classes of training episodes by quarter turns.",
    "eval_rotate": "Turn those of evaluation episodes too.",
    "eval_every": "Meta-iterations between evaluations.",
    "eval_episodes": "Episodes of each evaluation.",
    "test_episodes": "Episodes of the evaluation at the end.",
    "eval_inner_steps": "Inner steps in evaluation (default: 3, or --inner-steps if more or the head is not learned; "
    "data sets in color 10).",
    "task_chunk": "Tasks held in memory at once: a number, or auto for what fits in 96 MiB (all on a GPU).",
    "checkpoint_seconds": "At most so many seconds are lost by a kill.",
    "threads": "Threads of PyTorch (default: as torch decides).",
    "device": "Where to train.",
    "fixed_order": "Add gradients up task by task: the same bits on any number of processes.",
    "cuda_graph": "On a GPU, replay whole meta-iterations as a CUDA graph (default: where possible).",
}


class Commands(click.Group):
    """A group whose commands tell expected errors, and stops, in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a sign must not end a training
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            with warnings.catch_warnings(), _spoken_once():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.meta.get("debug"):
                raise
            if is_told_by_another(error):
                ctx.exit(2)
            click.echo(f"maml-fast: error: {printable(_told(error))}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt as stop:
            if not is_told_by_another(stop):
                click.echo(f"maml-fast: {printable(str(stop)) if stop.args else 'stopped'}", err=True)
            ctx.exit(128 + getattr(stop, "signal_number", 2))


@contextlib.contextmanager
def _spoken_once() -> Iterator[None]:
    """Of several processes that torchrun started with this command, the first one speaks for all."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _told(error: Exception) -> str:
    """What is said of an error."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, MemoryError):
        return "there is not enough memory for this: ask for smaller images, or fewer episodes or steps"
    if isinstance(error, ValueError | TypeError | RuntimeError | OSError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}: a fault of maml_fast, not of yours; --debug shows where"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if not is_first():
        return
    click.echo(f"maml-fast: warning: {printable(str(message))}", err=True)


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["debug"] = ctx.meta.get("debug", False) or value


_debug = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks of errors."
)


def _argument_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per argument of a run. Options not given stay None: the data set, or the run resumed, decides."""
    types = typing.get_type_hints(TrainConfig)
    for field in reversed(dataclasses.fields(TrainConfig)):
        name = field.name.replace("_", "-")
        kind: Any = next(
            (part for part in typing.get_args(types[field.name]) if part is not type(None)), types[field.name]
        )
        flag = f"--{name}/--no-{name}" if kind is bool else f"--{name}"
        if field.name in CHOICES:
            kind = _choice(CHOICES[field.name])
        if field.name == "task_chunk":
            kind = _TaskChunk()
        help_text = HELP[field.name] + _default_text(field)
        command = click.option(flag, field.name, type=kind, default=None, help=help_text)(command)
    return command


class _TaskChunk(click.ParamType):
    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read a number or the word; TrainConfig checks the rest."""
        try:
            return value if value == "auto" else int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'auto'", param, ctx)


def _choice(values: tuple[Any, ...]) -> click.ParamType:
    numbers = [value for value in values if isinstance(value, int)]
    return click.IntRange(min(numbers), max(numbers)) if numbers else click.Choice(values)


def _default_text(field: dataclasses.Field[Any]) -> str:
    if field.default is None:
        return ""
    names: dict[Any, list[str]] = {}  # value -> the data sets that have it
    for name, settings in DEFAULTS.items():
        if field.name in settings:
            names.setdefault(settings[field.name], []).append(name)
    others = [f"{', '.join(those)} {_plain(value)}" for value, those in names.items()]
    return f"  [{'; '.join([_plain(field.default), *others])}]"


def _plain(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="maml_fast")
@_debug
def main() -> None:
    """Meta-learning with MAML on fused, task-batched kernels."""


@main.command()
@_argument_options
@click.option("--out", type=click.Path(path_type=Path), help="New run folder (default: a fresh one under runs/).")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with this run; its arguments hold.")
@click.option("--processes", type=click.IntRange(1), help="Train in so many processes of this machine.")
@_debug
def train(out: Path | None, resume: Path | None, processes: int | None, **options: Any) -> None:
    """Meta-train, evaluate, draw. Without options: on the embedded data set, in about two minutes."""
    from maml_fast.cli._console import ConsoleReporter
    from maml_fast.train import resume as resume_run
    from maml_fast.train import train as start_run

    given = {name: value for name, value in options.items() if value is not None}
    if resume is not None and out is not None:
        raise ValueError(f"--out {out} and --resume {resume} exclude each other: a resumed run stays in its folder")
    make_config = TrainConfig.for_recipe if "recipe" in given else TrainConfig.for_dataset
    config = make_config(**given) if resume is None else None
    if processes is not None:
        sys.exit(launch(processes, "maml_fast", ["train", *as_options({**given, "out": out, "resume": resume})]))
    reporter = ConsoleReporter(Console())
    try:
        if resume is not None:
            resume_run(resume, reporter=reporter, **given)
        else:
            start_run(config, out=out, reporter=reporter)
    finally:
        reporter.stop()


def as_options(given: Mapping[str, Any]) -> list[str]:
    """The options that say the same to another process."""
    options = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            options.append(f"--{flag}={value}")
    return options


@main.command()
@click.argument("recipe", type=_choice(CHOICES["recipe"]), required=False)
@_debug
def recipes(recipe: str | None) -> None:
    """List the published trainings that can be repeated, or every number of RECIPE."""
    from maml_fast.cli._console import recipes_table, settings_table

    Console().print(recipes_table(RECIPES) if recipe is None else settings_table(RECIPES[recipe]))


@main.command()
@click.argument("recipe", type=_choice(CHOICES["recipe"]))
@click.option("--root", required=True, help=HELP["root"])
@click.option("--iterations", type=int, help="Fewer than the recipe's, for a shortened run (default: the recipe's).")
@click.option("--out", type=click.Path(path_type=Path), help="New run folder (default: a fresh one under runs/).")
@click.option("--threads", type=int, help=HELP["threads"])
@click.option("--device", type=_choice(CHOICES["device"]), help=HELP["device"])
@_debug
def reproduce(recipe: str, out: Path | None, **options: Any) -> None:
    """Train by RECIPE, evaluate, and print ours beside the published accuracy."""
    from maml_fast.cli._console import ConsoleReporter, comparison
    from maml_fast.train import train as start_run

    given = {name: value for name, value in options.items() if value is not None}
    reporter = ConsoleReporter(Console())
    try:
        config = TrainConfig.for_recipe(recipe, **given)
        result = start_run(config, out=out, reporter=reporter)
    finally:
        reporter.stop()
    click.echo(comparison(RECIPES[recipe], result.evaluation, config.overrides))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--n-episodes", type=int, default=600, show_default=True, help="Episodes to evaluate on.")
@click.option("--inner-steps", type=int, help="Inner steps (default: as the run evaluates).")
@click.option("--n-way", type=int, help="Classes per episode, any number (default: as the run evaluates).")
@click.option("--split", default="test", show_default=True, help="Which classes.")
@click.option("--seed", type=int, help="Of the episodes (default: the run's).")
@click.option("--root", help="Folder of the data set, where it has moved.")
@click.option("--threads", type=int, help=HELP["threads"])
@click.option("--device", type=_choice(CHOICES["device"]), help="Where to evaluate (default: where it was trained).")
@_debug
def evaluate(run: Path, n_episodes: int, inner_steps: int | None, split: str, seed: int | None, **options: Any) -> None:
    """Evaluate the checkpoint of RUN: accuracy with its 95 % interval, after every inner step.

    Beside it stands that by the support set's statistics: each query predicted as if it were the only one.
    """
    from maml_fast.cli._console import accuracy_text, evaluation_table
    from maml_fast.train import evaluate_run

    given = {name: value for name, value in options.items() if value is not None}
    row = evaluate_run(run, n_episodes=n_episodes, inner_steps=inner_steps, split=split, seed=seed, **given)
    Console().print(evaluation_table(row))
    click.echo(accuracy_text(row))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file for the adapted model.")
@click.option(
    "--format",
    type=_choice(("torch", "onnx", "export")),
    default="torch",
    show_default=True,
    help="Of the file: torch for predict, onnx, or export for torch.export.load.",
)
@click.option("--inner-steps", type=int, help="Inner steps (default: as the run evaluates).")
@click.option("--judge/--no-judge", "judged", default=True, help="Adapt anew without each picture, and ask what it is.")
@_debug
def adapt(run: Path, folder: Path, **options: Any) -> None:
    """Adapt the checkpoint of RUN to the pictures in FOLDER, a folder for each class.

    Classes may be of any number, and their pictures of any number, size and mode. How good the model is comes from
    pictures left out, each judged by what was adapted to the others. A sheet is drawn beside the file.
    """
    from maml_fast.cli import _deploying as deploying

    deploying.adapt(run, folder, **options)


@main.command()
@click.argument("adapted", type=click.Path(path_type=Path))
@click.argument("pictures", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--format", type=_choice(("table", "csv", "json")), default="table", show_default=True, help="Of what is printed."
)
@click.option("--sheet", type=click.Path(path_type=Path), help="New PNG of the pictures with their classes.")
@_debug
def predict(adapted: Path, pictures: tuple[Path, ...], **options: Any) -> None:
    """Say what PICTURES are, by a model that adapt wrote; a folder stands for the pictures in it.

    Each picture is judged by itself: what else is asked for changes nothing.
    """
    from maml_fast.cli import _deploying as deploying

    deploying.predict(adapted, pictures, **options)


@main.command()
@click.argument("dataset", type=_choice(("omniglot",)))
@click.option(
    "--root", required=True, type=click.Path(path_type=Path), help="Folder of the two zips, or of what was in them."
)
@click.option("--out", type=click.Path(path_type=Path), help="The .npy to write (default: beside the images).")
@click.option("--download", is_flag=True, help="Fetch the official archives into --root first.")
@_debug
def prepare(dataset: str, root: Path, out: Path | None, download: bool) -> None:
    """Make one .npy of DATASET's images: (1623, 20, 1, 28, 28) bytes."""
    from maml_fast import data
    from maml_fast.cli._console import CountedProgress

    with CountedProgress(Console(stderr=True), f"prepare {dataset}") as progress:
        path = data.prepare_omniglot(root, out, download=download, progress=progress)
    click.echo(path)


@main.command()
@click.option("--force", is_flag=True, help="Compile even if the cache holds the library.")
@click.option("--verbose", is_flag=True, help="Show the compiler's output.")
@_debug
def build(force: bool, verbose: bool) -> None:
    """Compile the native kernels for the torch that is installed."""
    from maml_fast import native

    report = native.build(verbose=verbose, force=force)
    click.echo(f"{report.path}  ({'in the cache already' if report.cached else f'built in {report.seconds:.1f} s'})")


@main.command()
@_debug
def doctor() -> None:
    """Say what runs here, why, and what to do about what is missing."""
    from maml_fast.native._doctor import report

    click.echo(report())


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--quick", is_flag=True, help="Tiny workloads, to see that everything works: minutes.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="New folder for the record (default: a fresh one in bench/results/)."
)
@click.option("--sweeps", type=click.IntRange(1), help="How often everything is measured (default: 3).")
@click.option("--seconds", type=float, help="For how long each time, about (default: 2).")
@click.option("--workloads", help="These alone, such as W1,W3-order2,A-anil (default: all).")
@click.option("--peers", help="maml_fast and these alone, such as loop,vmap (default: all).")
@click.option("--device", type=_choice(CHOICES["device"]), default="cpu", help="Where to compute (default: cpu).")
@click.option(
    "--precision",
    type=_choice(("exact", "tf32")),
    default="exact",
    help="On cuda, products of float32 (default: exact).",
)
@click.option(
    "--compare", nargs=2, type=click.Path(path_type=Path), help="Run nothing: compare two bench.json, old and new."
)
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
@_debug
def bench(compare: tuple[Path, Path] | None, pytest_arguments: tuple[str, ...], **options: Any) -> None:
    """Time maml_fast against its peers, parity first; write JSON, tables and pictures.

    Further arguments go to pytest, which runs the benchmarks: -k sampler, for one. --compare OLD NEW exits with 1 if
    something of maml_fast's got slower, beyond the spread of both.
    """
    from maml_fast.cli import _benchmark as benchmark

    if compare is not None:
        sys.exit(benchmark.compare(*compare))
    sys.exit(benchmark.run(pytest_arguments=pytest_arguments, **options))

"""The commands that train, evaluate and compare runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from maml_fast.cli._errors import debug
from maml_fast.cli._run_options import GroupedCommand, as_arguments, run_option, run_options
from maml_fast.distributed._launch import launch
from maml_fast.train._config import TrainConfig
from maml_fast.train._recipes import RECIPES

__all__ = ["evaluate", "recipes", "report", "reproduce", "train"]

# Slow imports are inside the commands that need them, so that `maml-fast --help` does not wait for them.

_out = click.option("--out", type=click.Path(path_type=Path), help="New run folder (default: a fresh one under runs/).")


@click.command(cls=GroupedCommand)
@run_options
@_out
@click.option("--resume", type=click.Path(path_type=Path), help="Continue this run with its own arguments.")
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Processes on this machine.")
@debug
def train(out: Path | None, resume: Path | None, processes: int | None, **options: Any) -> None:
    """Meta-train, evaluate and draw. The default, on the embedded data set, takes two minutes.

    Your own net: --model nets.py:Net fills in n_way, in_channels, image_size.
    """
    from maml_fast.cli._console import ConsoleReporter
    from maml_fast.train import resume as resume_run
    from maml_fast.train import train as start_run

    given = {name: value for name, value in options.items() if value is not None}
    if resume is not None and out is not None:
        raise ValueError(f"--out {out} and --resume {resume} can't be combined: a resumed run stays in its folder")
    make_config = TrainConfig.for_recipe if "recipe" in given else TrainConfig.for_dataset
    config = make_config(**given) if resume is None else None
    if processes is not None:
        sys.exit(launch(processes, "maml_fast", ["train", *as_arguments({**given, "out": out, "resume": resume})]))
    reporter = ConsoleReporter(Console())
    try:
        if resume is not None:
            resume_run(resume, reporter=reporter, **given)
        else:
            start_run(config, out=out, reporter=reporter)
    finally:
        reporter.stop()


@click.command()
@click.argument("recipe", type=click.Choice(tuple(RECIPES)), required=False, metavar="[RECIPE]")
@debug
def recipes(recipe: str | None) -> None:
    """List the published trainings that can be reproduced, or all settings of RECIPE."""
    from maml_fast.cli._console import recipes_table, settings_table

    Console().print(recipes_table(RECIPES) if recipe is None else settings_table(RECIPES[recipe]))


@click.command()
@click.argument("recipe", type=click.Choice(tuple(RECIPES)), metavar="RECIPE")
@run_option("root", required=True)
@run_option("iterations", help="Fewer than the recipe's, for a shortened run (default: the recipe's).")
@_out
@run_option("threads")
@run_option("device")
@debug
def reproduce(recipe: str, out: Path | None, **options: Any) -> None:
    """Train by RECIPE, and compare the accuracy with the published one.

    maml-fast recipes lists the recipes.
    """
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


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--n-episodes", type=int, default=600, show_default=True, help="Episodes to evaluate on.")
@run_option("inner_steps", help="Inner steps (default: as the run evaluates).")
@run_option("n_way", help="Classes per episode, any number (default: as the run evaluates).")
@click.option("--split", default="test", show_default=True, help="Classes to evaluate on: train, val or test.")
@run_option("seed", help="Seed of the episodes (default: the run's).")
@run_option("root", help="Folder of the data set, if it has moved.")
@run_option("threads")
@run_option("device", help="Where to evaluate (default: where it was trained).")
@debug
def evaluate(run: Path, n_episodes: int, inner_steps: int | None, split: str, seed: int | None, **options: Any) -> None:
    """Evaluate the checkpoint of RUN: accuracy with its 95 % interval, after every inner step.

    The second accuracy takes batch norm's statistics from the support set: each query is predicted on its own.
    """
    from maml_fast.cli._console import accuracy_text, evaluation_table
    from maml_fast.train import evaluate_run

    given = {name: value for name, value in options.items() if value is not None}
    row = evaluate_run(run, n_episodes=n_episodes, inner_steps=inner_steps, split=split, seed=seed, **given)
    Console().print(evaluation_table(row))
    click.echo(accuracy_text(row))


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), default="report.html", show_default=True, help="New HTML file.")
@debug
def report(runs: tuple[Path, ...], out: Path) -> None:
    """Compare RUNS on one HTML page: results, curves, arguments that differ, episodes.

    The page needs no network and no script.
    """
    from maml_fast.report import write_report

    click.echo(write_report(runs, out))

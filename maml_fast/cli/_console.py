"""The output of a run: a progress bar on a terminal, and occasional lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from maml_fast.data._dataset import printable
from maml_fast.train import Reporter, RunResult
from maml_fast.train._config import TrainConfig
from maml_fast.train._recipes import Recipe
from maml_fast.train._record import Row, RunFolder

__all__ = [
    "ConsoleReporter",
    "CountedProgress",
    "accuracy_text",
    "comparison",
    "evaluation_table",
    "recipes_table",
    "settings_table",
]

LINE_SECONDS = 10.0  # between two lines, if there is no terminal
WINDOW = 20  # iterations over which the displayed loss, accuracy and speed are averaged


def accuracy_text(row: Row) -> str:
    """Return an accuracy with all that it depends on: interval, ways, steps, split and batch norm policy."""
    steps = row["inner_steps"]
    conditions = f"{row['episodes']} episodes, {row['n_way']}-way, {steps} inner step{'s' * (steps != 1)}"
    text = (
        f"{row['accuracy']:.2%} ± {row['interval']:.2%} on {row['split']} "
        f"({conditions}, batch norm: {row['batch_norm']})"
    )
    other = row.get("by_support")
    if other is None:
        return text
    return f"{text}; {other['accuracy']:.2%} ± {other['interval']:.2%} by {other['batch_norm']}"


def evaluation_table(row: Row) -> Table:
    """Return a table of accuracy and interval after every inner step."""
    table = Table("inner steps", "accuracy", "95 % interval", box=box.SIMPLE)
    for step, (accuracy, interval) in enumerate(zip(row["accuracies"], row["intervals"], strict=True)):
        table.add_row(str(step), f"{accuracy:.2%}", f"± {interval:.2%}")
    return table


def recipes_table(recipes: Mapping[str, Recipe]) -> Table:
    """Return a table of all recipes, with paper and published accuracy."""
    table = Table(Column("recipe", no_wrap=True), Column("published", no_wrap=True), "paper", box=box.SIMPLE)
    for name, recipe in recipes.items():
        table.add_row(name, str(recipe.published or "-"), f"{recipe.paper} ({recipe.settings['algorithm']})")
    return table


def settings_table(recipe: Recipe) -> Table:
    """Return a table of all settings of a recipe, by the names of the options, and of those without an option."""
    title = f"{recipe.paper}; published: {recipe.published or 'no figure'}"
    table = Table("argument", "value", box=box.SIMPLE, title=title, title_justify="left")
    for name, value in {**recipe.settings, **recipe.given}.items():
        table.add_row(name, str(value))
    return table


def comparison(recipe: Recipe, row: Row, overrides: Mapping[str, Any]) -> str:
    """Return our and the published accuracy, and how the training differed from the recipe."""
    changed = ", ".join(f"{name} {value}" for name, value in overrides.items())
    return "\n".join(
        [
            f"ours       {accuracy_text(row)}",
            f"published  {recipe.published or 'none'} ({recipe.paper})",
            *([f"shortened or changed: {changed}"] if changed else []),
        ]
    )


class CountedProgress:
    """A progress bar, moved by calling it with (done, total); invisible if there is no terminal."""

    def __init__(self, console: Console, title: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._title = title
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int) -> None:
        """Move the bar to ``done`` of ``total``."""
        if self._task is None:
            self._task = self._progress.add_task(self._title, total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Remove the bar from the screen; may be called twice."""
        self._progress.stop()

    def __enter__(self) -> CountedProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ConsoleReporter(Reporter):
    """Shows a run on ``console``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._preparing = CountedProgress(console, "prepare the data")
        self._window: deque[Row] = deque(maxlen=WINDOW)
        self._told = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def preparing(self, done: int, total: int) -> None:
        """Show the progress of preparing the data."""
        self._preparing(done, total)

    def started(self, folder: RunFolder, config: TrainConfig, facts: dict[str, str], iteration: int) -> None:
        """Print what runs on which machine, and the run folder; start the bar."""
        self._preparing.stop()
        self.console.print(f"[bold]{escape(printable(config.title))}[/bold]")
        width = max(map(len, facts))
        for name, text in {**facts, "run folder": str(folder.path)}.items():
            lines = escape(("\n" + " " * (width + 4)).join(map(printable, text.splitlines())))
            self.console.print(f"  {name:<{width}}  {lines}", soft_wrap=True, highlight=False)
        if iteration:
            self.console.print(f"  resuming after iteration {iteration}")
        self._total = config.iterations
        self._task = self._progress.add_task("train", total=config.iterations, completed=iteration, numbers="")
        self._progress.start()

    def stepped(self, row: Row) -> None:
        """Move the bar."""
        self._window.append(row)
        self._progress.update(self._task, completed=row["iteration"], description="train", numbers=self._numbers())
        if not self.console.is_terminal and time.monotonic() - self._told >= LINE_SECONDS:
            self._tell(f"iteration {row['iteration']}/{self._total}  {self._numbers()}")

    def evaluating(self, episodes: int) -> None:
        """Show that an evaluation is running."""
        self._progress.update(self._task, description=f"evaluate {episodes} episodes")

    def evaluated(self, row: Row) -> None:
        """Print the accuracy on unseen classes."""
        before = row["accuracies"][0]
        self._tell(
            f"iteration {row['iteration']:>5}  {row['split']} accuracy {row['accuracy']:.1%} ± {row['interval']:.1%}"
            f"  (before adaptation {before:.1%})"
        )

    def finished(self, result: RunResult) -> None:
        """Print the result and its run folder."""
        self._progress.update(self._task, description="train")
        self.stop()
        speed = result.seconds / max(result.iterations, 1)
        self.console.print(
            f"[bold green]{accuracy_text(result.evaluation)}[/bold green]", highlight=False, soft_wrap=True
        )
        self.console.print(
            f"{result.iterations} iterations, {speed * 1e3:.1f} ms each, {result.waiting_share:.2%} of it waiting for "
            f"episodes; record in {escape(printable(str(result.path)))}",
            highlight=False,
            soft_wrap=True,
        )

    def stop(self) -> None:
        """Remove the bars from the screen; may be called twice."""
        self._preparing.stop()
        self._progress.stop()

    def _numbers(self) -> str:
        rows = self._window
        loss = sum(row["loss"] for row in rows) / len(rows)
        accuracy = sum(row["query_accuracy"] for row in rows) / len(rows)
        speed = len(rows) / sum(1.0 / row["episodes_per_second"] for row in rows)
        return f"loss {loss:.3f}  accuracy {accuracy:.1%}  {speed:.1f} episodes/s"

    def _tell(self, line: str) -> None:
        self._told = time.monotonic()
        self.console.print(line, highlight=False, soft_wrap=True)

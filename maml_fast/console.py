"""What the command line shows of a run: a live progress bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections import deque

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from maml_fast.recipes import TrainConfig
from maml_fast.record import Row, RunFolder
from maml_fast.train import Reporter, RunResult

__all__ = ["ConsoleReporter", "accuracy_text", "byte_progress"]

LINE_SECONDS = 10.0  # between two lines where there is no terminal
WINDOW = 20  # iterations that the shown loss, accuracy and speed are means of


def accuracy_text(row: Row) -> str:
    """An accuracy as it must be quoted: with its interval, steps, split and batch-norm policy."""
    steps = row["inner_steps"]
    return (
        f"{row['accuracy']:.2%} ± {row['interval']:.2%} on {row['split']} "
        f"({row['episodes']} episodes, {steps} inner step{'s' * (steps != 1)}, batch norm: {row['batch_norm']})"
    )


def byte_progress(console: Console) -> Progress:
    """A bar for work that is counted in items, such as images prepared."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


class ConsoleReporter(Reporter):
    """Shows a run on ``console``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._window: deque[Row] = deque(maxlen=WINDOW)
        self._told = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def started(self, folder: RunFolder, config: TrainConfig, facts: dict[str, str], iteration: int) -> None:
        """Say what runs, on what, and where the record goes; start the bar."""
        self.console.print(f"[bold]{escape(config.title)}[/bold]")
        width = max(map(len, facts))
        for name, text in {**facts, "run folder": str(folder.path)}.items():
            self.console.print(f"  {name:<{width}}  {escape(text)}", soft_wrap=True, highlight=False)
        if iteration:
            self.console.print(f"  going on after iteration {iteration}")
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
        """Say that the bar waits for an evaluation."""
        self._progress.update(self._task, description=f"evaluate {episodes} episodes")

    def evaluated(self, row: Row) -> None:
        """Print the accuracy on unseen classes."""
        before = row["accuracies"][0]
        self._tell(
            f"iteration {row['iteration']:>5}  {row['split']} accuracy {row['accuracy']:.1%} ± {row['interval']:.1%}"
            f"  (before adaptation {before:.1%})"
        )

    def finished(self, result: RunResult) -> None:
        """Print the result and where its record lies."""
        self.stop()
        speed = result.seconds / max(result.iterations, 1)
        self.console.print(
            f"[bold green]{accuracy_text(result.evaluation)}[/bold green]", highlight=False, soft_wrap=True
        )
        self.console.print(
            f"{result.iterations} iterations, {speed * 1e3:.1f} ms each, {result.waiting_share:.2%} of it waiting for "
            f"episodes; record in {escape(str(result.path))}",
            highlight=False,
            soft_wrap=True,
        )

    def stop(self) -> None:
        """Take the bar off the screen; safe to call twice."""
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

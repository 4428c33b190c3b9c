"""What a report reads of one run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maml_fast.train._metrics import read_metrics
from maml_fast.train._record import Row, RunFolder

__all__ = ["Evaluation", "Run", "differences", "read_runs"]

UNSAID = "–"  # a run of another version does not have the argument


@dataclass(frozen=True)
class Evaluation:
    """One ``evaluation-*.json``; accuracy and interval are shares of 1."""

    split: str
    n_way: int | None
    inner_steps: int
    n_episodes: int
    accuracy: float
    interval: float
    batch_norm: str


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        name: the folder's; with its parents where runs would share a name.
        trained: rows of iterations.
        evaluated: rows of evaluations while training.
        evaluations: of the checkpoint, the newest last.
        episode: the picture of a test episode, a PNG; None where the run drew none.
        seconds: of training; None while the run is not complete.
    """

    name: str
    arguments: Row
    facts: Row
    sessions: Sequence[Row]
    trained: Sequence[Row]
    evaluated: Sequence[Row]
    evaluations: Sequence[Evaluation]
    episode: bytes | None
    seconds: float | None

    @property
    def iterations(self) -> int:
        """Iterations that were trained."""
        return max((row["iteration"] for row in self.trained), default=0)

    @property
    def machine(self) -> str:
        """Where it was trained last."""
        last = self.sessions[-1] if self.sessions else {}
        parts = (last.get("processor"), last.get("gpu"), _counted(last.get("threads"), "thread"), last.get("torch"))
        return ", ".join(str(part) for part in parts if part)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run folders.

    Raises:
        FileNotFoundError: one of them is no run folder.
        ValueError: the same folder twice, or a damaged file; names it.
    """
    folders = [RunFolder.open(path) for path in paths]
    places = [folder.path.resolve() for folder in folders]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice; give each run once")
    return [_read(folder, name) for folder, name in zip(folders, _names(places), strict=True)]


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Values of the arguments in which runs differ, by the argument's name, in the order of the runs."""
    names = dict.fromkeys(name for run in runs for name in run.arguments)
    values = {name: [_shown(run.arguments.get(name, UNSAID)) for run in runs] for name in names}
    return {name: of_runs for name, of_runs in values.items() if len(set(of_runs)) > 1}


def _read(folder: RunFolder, name: str) -> Run:
    record = folder.read_config()
    rows = read_metrics(folder.metrics)
    summary = _json(folder.summary) if folder.summary.is_file() else {}
    files = sorted(folder.path.glob("evaluation-*.json"), key=lambda file: file.stat().st_mtime)
    return Run(
        name=name,
        arguments=record["arguments"],
        facts=record.get("facts", {}),
        sessions=record.get("sessions", ()),
        trained=[row for row in rows if "loss" in row],
        evaluated=[row for row in rows if "accuracy" in row],
        evaluations=[_evaluation(file) for file in files],
        episode=folder.episode.read_bytes() if folder.episode.is_file() else None,
        seconds=summary.get("seconds"),
    )


def _evaluation(file: Path) -> Evaluation:
    row = _json(file)
    try:
        return Evaluation(
            split=row["split"],
            n_way=row.get("n_way"),
            inner_steps=row["inner_steps"],
            n_episodes=row["episodes"],
            accuracy=row["accuracy"],
            interval=row["interval"],
            batch_norm=row["batch_norm"],
        )
    except KeyError as error:
        raise ValueError(f"{file} is damaged: it has no {error}; remove it or restore it from a copy") from None


def _json(file: Path) -> Row:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); remove it or restore it from a copy") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged (no JSON object); remove it or restore it from a copy")
    return content


def _names(places: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    for length in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _counted(number: Any, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}" if number else ""

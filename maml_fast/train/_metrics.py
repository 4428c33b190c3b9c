"""``metrics.jsonl``: one JSON object a line, appended while a run goes, cut where it is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from maml_fast.data._files import write_atomically
from maml_fast.train._board import Board
from maml_fast.train._record import Row

__all__ = ["MetricsLog", "UnwrittenLog", "cut_metrics", "read_metrics"]


class MetricsLog:
    """Append-only ``metrics.jsonl``, one unbuffered write per row, so a kill loses at most the row being written."""

    def __init__(self, path: Path, board: Board | None = None):
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for the whole run
        self._size = os.fstat(self._file.fileno()).st_size
        self._board = board

    def append(self, row: Row) -> None:
        """Write one row; ValueError for NaN or infinity, which JSON does not have, OSError on a full disk."""
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            complete = self._file.write(line) == len(line)
        except OSError as error:
            raise OSError(f"cannot write {self._path}: {error.strerror}; free space, then --resume the run") from error
        if not complete:
            raise OSError(f"cannot write {self._path}: the disk is full; free space, then --resume the run")
        self._size += len(line)
        if self._board is not None:
            self._board.append(row)

    def sync(self) -> None:
        """Put the rows on disk: called before a checkpoint, which must never be newer than its metrics.

        Raises:
            OSError: the file is not the one that was opened, or not as long as what was written.
        """
        os.fsync(self._file.fileno())
        opened = os.fstat(self._file.fileno())
        try:
            there = os.stat(self._path)
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
            what = "moved or removed"
        elif there.st_size != self._size:
            what = f"cut from {self._size:,} to {there.st_size:,} bytes" if there.st_size < self._size else "written to"
        else:
            return
        raise OSError(
            f"{self._path} was {what} while the run wrote to it; put it back, then --resume the run from its last "
            "checkpoint"
        )

    def close(self) -> None:
        """Close the file and the board."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class UnwrittenLog(MetricsLog):
    """That of a process that leaves the writing to another."""

    def __init__(self) -> None:
        pass

    def append(self, row: Row) -> None:
        """Write nothing."""

    def sync(self) -> None:
        """There is nothing to put on disk."""

    def close(self) -> None:
        """Nor to close."""


def read_metrics(path: Path) -> list[Row]:
    """Rows of a ``metrics.jsonl``; an unfinished last line, left by a kill, is dropped.

    Raises:
        ValueError: another line is no JSON object; names file and line.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or type(row.get("iteration")) is not int:
                raise ValueError("no object with an iteration")
        except ValueError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise ValueError(f"{path}, line {number} is damaged ({error}); remove or mend that line") from None
        rows.append(row)
    return rows


def cut_metrics(path: Path, iteration: int) -> list[Row]:
    """Drop the rows later than ``iteration``, which the checkpoint does not know; returns the rows kept.

    Raises:
        ValueError: these are not the rows of all iterations up to it, each once and in order.
    """
    rows = [row for row in read_metrics(path) if row["iteration"] <= iteration]
    done = [row["iteration"] for row in rows if "accuracy" not in row]
    evaluated = [row["iteration"] for row in rows if "accuracy" in row]
    if evaluated != sorted(set(evaluated)):
        raise ValueError(f"{path} holds evaluations twice or out of order; restore it from a copy, or start a new run")
    if done != list(range(1, iteration + 1)):
        wrong = next(
            (i for i, (a, b) in enumerate(zip(done, range(1, iteration + 1), strict=False), 1) if a != b), None
        )
        first = len(done) + 1 if wrong is None else wrong
        raise ValueError(
            f"{path} does not hold every iteration up to the checkpoint's {iteration} once and in order, iteration "
            f"{min(first, iteration)} first; restore it from a copy, or start a new run"
        )
    content = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(path, content.encode(), make_folders=False)
    return rows

"""Reads and writes ``metrics.jsonl``: one JSON object per line, appended during a run, truncated when it is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from maml_fast.data._files import write_atomically
from maml_fast.train._board import Board
from maml_fast.train._record import Row

__all__ = ["MetricsLog", "NullLog", "cut_metrics", "read_metrics"]


class MetricsLog:
    """Appends rows to ``metrics.jsonl``, each in one unbuffered write: a kill loses at most the row being written."""

    def __init__(self, path: Path, board: Board | None = None):
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for the whole run
        self._size = os.fstat(self._file.fileno()).st_size
        self._board = board

    def append(self, row: Row) -> None:
        """Write one row.

        Raises:
            ValueError: the row holds NaN or infinity, which JSON does not have.
            OSError: the file can't be written, for example because the disk is full.
        """
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
        """Flush the rows to disk. Call it before every checkpoint, which must never be newer than its metrics.

        Raises:
            OSError: the path no longer leads to the file that was opened, or its size is not what was written.
        """
        os.fsync(self._file.fileno())
        opened = os.fstat(self._file.fileno())
        try:
            current = os.stat(self._path)
        except OSError:
            current = None
        if current is None or (current.st_dev, current.st_ino) != (opened.st_dev, opened.st_ino):
            what = "moved or removed"
        elif current.st_size != self._size:
            shorter = current.st_size < self._size
            what = f"cut from {self._size:,} to {current.st_size:,} bytes" if shorter else "written to"
        else:
            return
        raise OSError(
            f"{self._path} was {what} while the run wrote to it; put it back, then --resume the run from its last "
            "checkpoint"
        )

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


class NullLog(MetricsLog):
    """The log of a process that does not lead: it writes nothing."""

    def __init__(self) -> None:
        pass

    def append(self, row: Row) -> None:
        """No-op: the leading process writes the row."""

    def sync(self) -> None:
        """No-op: nothing was written."""

    def close(self) -> None:
        """No-op: no file is open."""


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a ``metrics.jsonl``. An incomplete last line, which a kill leaves behind, is dropped.

    Raises:
        ValueError: another line is not a JSON object with an iteration; the message names file and line.
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
            raise ValueError(f"{path}, line {number} is damaged ({error}); remove or repair that line") from None
        rows.append(row)
    return rows


def cut_metrics(path: Path, iteration: int) -> list[Row]:
    """Remove the rows after ``iteration``, the checkpoint's, from the file, and return the remaining rows.

    Raises:
        ValueError: the remaining rows are not those of all iterations up to ``iteration``, each once and in order.
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

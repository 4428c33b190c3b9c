"""``metrics.jsonl``: one JSON object a line, appended while a run goes, cut where it is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from maml_fast.board import Board
from maml_fast.record import Row, write_atomically

__all__ = ["MetricsLog", "cut_metrics", "read_metrics"]


class MetricsLog:
    """Append-only ``metrics.jsonl``, one flushed line per row, so a kill loses at most the row being written."""

    def __init__(self, path: Path, board: Board | None = None):
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open for the whole run
        self._board = board

    def append(self, row: Row) -> None:
        """Write one row; raises ValueError for NaN or infinity, which JSON does not have."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        if self._board is not None:
            self._board.append(row)

    def sync(self) -> None:
        """Put the rows on disk: called before a checkpoint, which must never be newer than its metrics."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and the board."""
        self._file.close()
        if self._board is not None:
            self._board.close()


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
            if not isinstance(row, dict) or "iteration" not in row:
                raise ValueError("no object with an iteration")
        except ValueError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise ValueError(f"{path}, line {number} is damaged ({error}); remove or mend that line") from None
        rows.append(row)
    return rows


def cut_metrics(path: Path, iteration: int) -> list[Row]:
    """Drop the rows later than ``iteration``, which the checkpoint does not know; returns the rows kept."""
    rows = [row for row in read_metrics(path) if row["iteration"] <= iteration]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return rows

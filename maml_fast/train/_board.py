"""Writes the scalars of a run for TensorBoard, if it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

__all__ = ["Board"]


class Board:
    """Writes scalars for TensorBoard into the run folder. Does nothing if tensorboard is not installed."""

    def __init__(self, folder: Path, iteration: int) -> None:
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is None:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # raised by TensorBoard's own imports
                from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            warnings.warn(f"tensorboard is installed but cannot be used: {error}", RuntimeWarning, stacklevel=2)
            return
        # Discard what an earlier session wrote after its last checkpoint.
        self._writer = SummaryWriter(str(folder), purge_step=iteration + 1 if iteration else None)

    def append(self, row: dict[str, Any]) -> None:
        """Write one row of metrics.jsonl."""
        if self._writer is None:
            return
        group = row.get("split", "train")
        names = ("accuracy", "interval") if "accuracy" in row else ("loss", "query_accuracy", "episodes_per_second")
        for name in names:
            self._writer.add_scalar(f"{group}/{name}", row[name], row["iteration"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

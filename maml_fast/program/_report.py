"""The report of a fused model: what was fused, what was not, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["FusionPolicy", "FusionReport"]

FusionPolicy = Literal["batch", "running", "as_written"]

POLICIES: dict[FusionPolicy, str] = {
    "batch": "the batch's own statistics (transductive) in train() and eval() alike; running statistics are neither "
    "read nor written",
    "running": "the running statistics, read only",
    "as_written": "PyTorch's own: train() and eval() decide, and running statistics are updated",
}


@dataclass(frozen=True)
class FusionReport:
    """What a fused model did in its last call; ``str(report)`` prints it line by line.

    Attributes:
        batch_norm: the policy: ``"batch"``, ``"running"`` or ``"as_written"``.
        fused: one line per sequence of layers that ran as one operation, ``"where: what"``.
        left: one line per convolution that was not fused, or a single line that says why the model ran as it is
            written, ``"where: why"``.
    """

    batch_norm: FusionPolicy
    fused: tuple[str, ...] = field(default=())
    left: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"batch norm: {POLICIES[self.batch_norm]}"]
        lines.append(f"fused: {len(self.fused) or 'nothing'}")
        lines += [f"  {line}" for line in self.fused]
        if self.left:
            lines.append(f"left as written: {len(self.left)}")
            lines += [f"  {line}" for line in self.left]
        return "\n".join(lines)

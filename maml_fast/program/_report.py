"""What was fused, what was left as it is, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["FusionPolicy", "FusionReport"]

FusionPolicy = Literal["batch", "running", "as_written"]

POLICIES: dict[FusionPolicy, str] = {
    "batch": "the batch's own statistics (transductive) in train() and eval() alike; running ones not read or written",
    "running": "the running statistics, read only",
    "as_written": "PyTorch's own: train() and eval() decide, and running statistics are kept",
}


@dataclass(frozen=True)
class FusionReport:
    """The lines of ``str(report)``.

    Attributes:
        batch_norm: the policy, ``"batch"``, ``"running"`` or ``"as_written"``.
        fused: one line for every run that is one operation now, ``"where: what"``.
        left: one line for every convolution that is not, or one that says why the model ran as it is written,
            ``"where: why"``.
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

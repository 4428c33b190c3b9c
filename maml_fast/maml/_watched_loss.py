"""What is known of a loss function: whether it has parameters of its own, and its program."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast.maml._losses import LossFunction
from maml_fast.program import Program, Programs, Watch

__all__ = ["WatchedLoss"]


class _Criterion(nn.Module):
    """A loss function as a module of logits and targets; if it is a module, it is a part."""

    def __init__(self, loss_fn: LossFunction) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss_fn(logits, targets)


class WatchedLoss:
    """The loss function that was asked of last."""

    def __init__(self) -> None:
        self._last: tuple[LossFunction, Programs] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_last": None}

    def seen(self, loss_fn: LossFunction) -> tuple[Watch | None, bool]:
        """What it is and reads, and whether it is known to have no tensors that take gradients, now.

        The first is the same object as long as all that is the same, and ``None`` if it can't be told.
        """
        watch = self._programs(loss_fn).watch()
        return watch, watch is not None and not watch.sees_leaves()

    def is_closed(self, loss_fn: LossFunction) -> bool:
        """Whether it is known to have no tensors that take gradients, now."""
        return loss_fn is F.cross_entropy or self.seen(loss_fn)[1]

    def program(self, loss_fn: LossFunction, logits: torch.Size, dtype: torch.dtype, targets: Tensor) -> Program | str:
        """Its program for logits of this shape and one task's targets, or why there is none."""
        example = torch.linspace(0, 9, logits.numel(), dtype=dtype).cos().view(1, *logits)
        program = self._programs(loss_fn).of(example, targets[:1])
        if isinstance(program, str):
            return f"the loss: {program}"
        return program if not program.result.shape else "the loss is no scalar"

    def tensors(self, loss_fn: LossFunction) -> dict[str, Tensor]:
        """Its own, by the names that its program has for them."""
        return dict(_Criterion(loss_fn).named_buffers())

    def _programs(self, loss_fn: LossFunction) -> Programs:
        if self._last is None or self._last[0] is not loss_fn:
            self._last = loss_fn, Programs(_Criterion(loss_fn), "as_written")
        return self._last[1]

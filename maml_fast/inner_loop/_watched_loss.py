"""Inspection of loss functions: whether they have parameters, and their programs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast.inner_loop._losses import LossFunction
from maml_fast.program import Program, Programs, Watch

__all__ = ["WatchedLoss"]


class _Criterion(nn.Module):
    """A module that computes a loss function of logits and targets; a loss that is a module becomes its submodule."""

    def __init__(self, loss_fn: LossFunction) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss_fn(logits, targets)


class WatchedLoss:
    """Inspects loss functions, and caches the programs of the last one."""

    def __init__(self) -> None:
        self._last: tuple[LossFunction, Programs] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_last": None}

    def inspect(self, loss_fn: LossFunction) -> tuple[Watch | None, bool]:
        """Return the watch of the loss's current state, and whether the loss is known to be closed.

        A closed loss reads no tensors that require gradients, except its arguments. The watch stays the same object as
        long as the state is unchanged. It is ``None`` if the state can't be watched.
        """
        watch = self._programs(loss_fn).watch()
        return watch, watch is not None and not watch.sees_leaves()

    def is_closed(self, loss_fn: LossFunction) -> bool:
        """Return whether the loss is currently known to be closed; see :meth:`inspect`."""
        return loss_fn is F.cross_entropy or self.inspect(loss_fn)[1]

    def program(self, loss_fn: LossFunction, logits: torch.Size, dtype: torch.dtype, targets: Tensor) -> Program | str:
        """Return the loss's program for logits of this shape and one task's targets, or why there is none."""
        example = torch.linspace(0, 9, logits.numel(), dtype=dtype).cos().view(1, *logits)
        program = self._programs(loss_fn).of(example, targets[:1])
        if isinstance(program, str):
            return f"the loss: {program}"
        return program if not program.result.shape else "the loss is not a scalar"

    def tensors(self, loss_fn: LossFunction) -> dict[str, Tensor]:
        """Return the loss's own tensors, by their names in its program."""
        return dict(_Criterion(loss_fn).named_buffers())

    def _programs(self, loss_fn: LossFunction) -> Programs:
        if self._last is None or self._last[0] is not loss_fn:
            self._last = loss_fn, Programs(_Criterion(loss_fn), "as_written")
        return self._last[1]

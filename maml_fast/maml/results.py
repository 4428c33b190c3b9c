"""What MAML returns for one meta-batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MAMLOutput", "TaskResults"]


class MAMLOutput(NamedTuple):
    """What one meta-batch gives.

    loss: mean query loss of the tasks after the last inner step, a differentiable scalar.
    query_accuracy: share of right query predictions after the last step, or ``None`` where targets are not classes.
    query_losses, query_accuracies: [S], after every recorded step, the last one last, or ``None`` unless asked for;
    they are records and carry no graph.
    """

    loss: Tensor
    query_accuracy: Tensor | None
    query_losses: Tensor | None = None
    query_accuracies: Tensor | None = None


class TaskResults(NamedTuple):
    """Query results of every task after the S recorded steps, of which the last inner step is the last.

    losses: [S, T]; the last row carries the graph.
    correct: [S, T] int64, right predictions out of ``predictions`` a task; ``None`` where targets are not classes.
    """

    losses: Tensor
    correct: Tensor | None
    predictions: int

    @classmethod
    def joined(cls, parts: Sequence[TaskResults]) -> TaskResults:
        """The results of all tasks from those of some each."""
        if len(parts) == 1:
            return parts[0]
        correct = [part.correct for part in parts if part.correct is not None]
        return cls(
            torch.cat([part.losses for part in parts], dim=1),
            torch.cat(correct, dim=1) if len(correct) == len(parts) else None,
            parts[0].predictions,
        )

    def detached(self) -> TaskResults:
        """The same without a graph."""
        return self._replace(losses=self.losses.detach())

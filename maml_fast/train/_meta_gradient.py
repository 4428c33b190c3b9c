"""The meta-gradient of a meta-batch: of one process, or of several that each take some of its tasks."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from maml_fast.data._episodes import Episodes
from maml_fast.distributed._group import Group
from maml_fast.maml import Learner
from maml_fast.maml._state import get_randomness, set_randomness

__all__ = ["MetaGradient", "Outcome", "make_gradient"]


class Outcome(NamedTuple):
    """Of all tasks of a meta-batch: the mean loss, and the share of right query predictions; both []."""

    loss: Tensor
    query_accuracy: Tensor


class MetaGradient(ABC):
    """Leaves the gradient of the mean over all tasks in the parameters, the same on every process.

    Args:
        learner: whose.
        group: the processes.
        n_tasks: of a whole meta-batch; a call gets this process's share of them.
    """

    def __init__(self, learner: Learner, group: Group, n_tasks: int) -> None:
        self._learner, self._group, self._n_tasks = learner, group, n_tasks
        self._parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]

    @abstractmethod
    def __call__(self, episodes: Episodes) -> Outcome:
        """Of the episodes, which are on the learner's device."""

    @abstractmethod
    def describe(self) -> str:
        """How the tasks' gradients are added up."""


class _AllAtOnce(MetaGradient):
    """One process takes all tasks in one call."""

    def __call__(self, episodes: Episodes) -> Outcome:
        """Of all episodes."""
        results, loss = self._learner.results_and_loss(episodes)
        loss.backward()
        assert results.correct is not None
        assert results.predictions is not None
        return Outcome(loss.detach(), results.correct[-1].sum() / results.predictions.sum())

    def describe(self) -> str:
        """How the tasks' gradients are added up."""
        return "by the engine"


class _OfParts(MetaGradient):
    """Gradients and what is told beside them, of some tasks, as numbers in a row."""

    @contextlib.contextmanager
    def _from_here(self) -> Iterator[Callable[[], None]]:
        """What takes the learner's buffers and random numbers back to where they are now; an error does it, too.

        For another process may be lost or stopped in the middle of a meta-batch, and what is saved then is the last.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self._learner.buffers()]
        randomness = get_randomness(self._parameters[0].device)

        def go_back() -> None:
            set_randomness(randomness)
            for buffer, value in buffers:
                buffer.copy_(value)

        try:
            yield go_back
        except BaseException:
            go_back()
            raise

    def _row(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """The gradient of the tasks' mean loss with the means they move beside it [P]; loss, right, predictions [3]."""
        results, loss = self._learner.results_and_loss(episodes)
        found = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        self._taken = [p for p, g in zip(self._parameters, found, strict=True) if g is not None]
        moved = self._learner.moved_to_means()
        numbers = [*(g for g in found if g is not None), *moved]
        assert results.correct is not None
        assert results.predictions is not None
        told = [loss.detach(), results.correct[-1].sum(), results.predictions.sum()]
        return torch.cat([each.flatten() for each in numbers]), torch.stack([each.double() for each in told])

    def _put(self, row: Tensor) -> None:
        """Numbers of :meth:`_row` back where they belong."""
        moved = self._learner.moved_to_means()
        sizes = [each.numel() for each in (*self._taken, *moved)]
        parts = row.split(sizes)
        for parameter, part in zip(self._taken, parts, strict=False):
            parameter.grad = part.view_as(parameter)
        for mean, part in zip(moved, parts[len(self._taken) :], strict=True):
            mean.copy_(part.view_as(mean))


class _Shared(_OfParts):
    """Every process takes its share in one call, and the sums of the shares are added in whatever order is fastest."""

    def __call__(self, episodes: Episodes) -> Outcome:
        """Of all processes' episodes."""
        with self._from_here():
            row, told = self._row(episodes)
            weight = episodes.meta_batch_size / self._n_tasks
            told[0] *= weight
            row *= weight
            self._group.add(row)
            self._group.add(told)
        self._put(row)
        return Outcome(told[0], (told[1] / told[2]).float())

    def describe(self) -> str:
        """How the tasks' gradients are added up."""
        return "by each process first: what one process has, but for rounding"


class _InOrder(_OfParts):
    """Every process takes its tasks one by one, and their gradients are added up in the order of the episodes.

    No bit depends on the number of processes. Each task is computed from where the meta-batch began, random numbers
    and running means included.
    """

    def __call__(self, episodes: Episodes) -> Outcome:
        """Of all processes' episodes."""
        rows, told = [], []
        with self._from_here() as go_back:
            for task in range(episodes.meta_batch_size):
                go_back()
                row, numbers = self._row(Episodes(*(part[task : task + 1] for part in episodes)))
                rows.append(row)
                told.append(numbers)
            total = self._group.add_in_order(torch.stack(rows), self._n_tasks)
            losses, right, predictions = self._group.join_rows(torch.stack(told), self._n_tasks).T.cpu()
        self._put(total * (1 / self._n_tasks))
        loss = _in_order(losses.tolist()) / self._n_tasks
        return Outcome(total.new_tensor(loss), (right.sum() / predictions.sum()).float().to(total.device))

    def describe(self) -> str:
        """How the tasks' gradients are added up."""
        return "one by one in the order of the episodes: the same bits on any number of processes"


def _in_order(numbers: Sequence[float]) -> float:
    *_, total = accumulate(numbers)
    return total


def make_gradient(learner: Learner, group: Group, n_tasks: int, *, in_order: bool) -> MetaGradient:
    """That of a learner which these processes train together, by meta-batches of ``n_tasks``."""
    if in_order:
        return _InOrder(learner, group, n_tasks)
    return (_AllAtOnce if group.size == 1 else _Shared)(learner, group, n_tasks)

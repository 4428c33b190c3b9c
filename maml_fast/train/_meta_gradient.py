"""Computes the meta-gradient of a meta-batch on one process, or on several that share its tasks."""

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
from maml_fast.inner_loop._state import get_randomness, set_randomness
from maml_fast.maml import Learner

__all__ = ["MetaGradient", "Outcome", "make_gradient"]


class Outcome(NamedTuple):
    """The mean loss of all tasks of a meta-batch, and their query accuracy; both are scalar tensors."""

    loss: Tensor
    query_accuracy: Tensor


class MetaGradient(ABC):
    """A call writes the gradient of the mean loss over all tasks to ``.grad`` of the parameters of every process.

    Args:
        learner: the learner whose parameters get the gradient.
        group: the processes that share the meta-batch.
        n_tasks: tasks of the complete meta-batch. A call takes the episodes of this process's share.
    """

    def __init__(self, learner: Learner, group: Group, n_tasks: int) -> None:
        self._learner, self._group, self._n_tasks = learner, group, n_tasks
        self._parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]

    @abstractmethod
    def __call__(self, episodes: Episodes) -> Outcome:
        """Compute the gradient from this process's share of the episodes, which are on the learner's device."""

    @abstractmethod
    def describe(self) -> str:
        """Return how the tasks' gradients are added up, for people to read."""


class _SingleProcess(MetaGradient):
    """One process computes all tasks in one call."""

    def __call__(self, episodes: Episodes) -> Outcome:
        results, loss = self._learner.results_and_loss(episodes)
        loss.backward()
        assert results.correct is not None
        assert results.predictions is not None
        return Outcome(loss.detach(), results.correct[-1].sum() / results.predictions.sum())

    def describe(self) -> str:
        return "by the engine"


class _FlatGradient(MetaGradient):
    """Computes the gradient of some of the tasks as one flat vector, which processes can add up."""

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Callable[[], None]]:
        """Yield a function that restores the learner's current buffers and random state; an error does so too.

        If another process is lost or stopped during a meta-batch, the state after the previous iteration is saved.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self._learner.buffers()]
        randomness = get_randomness(self._parameters[0].device)

        def restore() -> None:
            set_randomness(randomness)
            for buffer, value in buffers:
                buffer.copy_(value)

        try:
            yield restore
        except BaseException:
            restore()
            raise

    def _flat_gradient(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Return the gradient of the tasks' mean loss and the buffers that the call moved, flattened: [P].

        Also return the loss, the number of correct predictions and the number of predictions: [3], float64.
        """
        results, loss = self._learner.results_and_loss(episodes)
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        self._used = [p for p, g in zip(self._parameters, gradients, strict=True) if g is not None]
        moved = self._learner.moved_to_means()
        tensors = [*(g for g in gradients if g is not None), *moved]
        assert results.correct is not None
        assert results.predictions is not None
        scores = [loss.detach(), results.correct[-1].sum(), results.predictions.sum()]
        return torch.cat([each.flatten() for each in tensors]), torch.stack([each.double() for each in scores])

    def _write_back(self, flat: Tensor) -> None:
        """Write the result of :meth:`_flat_gradient` to ``.grad`` of the parameters and to the moved buffers."""
        moved = self._learner.moved_to_means()
        sizes = [each.numel() for each in (*self._used, *moved)]
        parts = flat.split(sizes)
        for parameter, part in zip(self._used, parts, strict=False):
            parameter.grad = part.view_as(parameter)
        for mean, part in zip(moved, parts[len(self._used) :], strict=True):
            mean.copy_(part.view_as(mean))


class _AllReduced(_FlatGradient):
    """Each process computes its share in one call, and an all-reduce adds up the shares."""

    def __call__(self, episodes: Episodes) -> Outcome:
        with self._snapshot():
            flat, scores = self._flat_gradient(episodes)
            weight = episodes.meta_batch_size / self._n_tasks
            scores[0] *= weight
            flat *= weight
            self._group.all_reduce(flat)
            self._group.all_reduce(scores)
        self._write_back(flat)
        return Outcome(scores[0], (scores[1] / scores[2]).float())

    def describe(self) -> str:
        return "on each process, then across processes: as on one process, but for rounding"


class _InOrder(_FlatGradient):
    """Each process computes its tasks one by one, and their gradients are added up in the order of the episodes.

    No bit depends on the number of processes. Every task starts from the random state and the running statistics that
    the meta-batch started from.
    """

    def __call__(self, episodes: Episodes) -> Outcome:
        gradients, scores = [], []
        with self._snapshot() as restore:
            for task in range(episodes.meta_batch_size):
                restore()
                flat, score = self._flat_gradient(Episodes(*(part[task : task + 1] for part in episodes)))
                gradients.append(flat)
                scores.append(score)
            total = self._group.sum_in_order(torch.stack(gradients), self._n_tasks)
            losses, correct, predictions = self._group.all_gather_rows(torch.stack(scores), self._n_tasks).T.cpu()
        self._write_back(total * (1 / self._n_tasks))
        loss = _sum_in_order(losses.tolist()) / self._n_tasks
        return Outcome(total.new_tensor(loss), (correct.sum() / predictions.sum()).float().to(total.device))

    def describe(self) -> str:
        return "one by one in the order of the episodes: the same bits on any number of processes"


def _sum_in_order(numbers: Sequence[float]) -> float:
    *_, total = accumulate(numbers)
    return total


def make_gradient(learner: Learner, group: Group, n_tasks: int, *, in_order: bool) -> MetaGradient:
    """Create the meta-gradient of ``learner`` on meta-batches of ``n_tasks`` tasks that ``group`` shares."""
    if in_order:
        return _InOrder(learner, group, n_tasks)
    return (_SingleProcess if group.size == 1 else _AllReduced)(learner, group, n_tasks)

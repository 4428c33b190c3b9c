"""The group of processes that work on one run. A single process is a group of size 1."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor

from maml_fast.distributed._shards import share_of

__all__ = ["Group", "sum_rows"]

T = TypeVar("T")


class Group:
    """A group of one process. The subclass :class:`maml_fast.distributed._ranks.Ranks` is a group of several.

    Methods are collective: all processes must call the same methods in the same order.

    Attributes:
        rank: number of this process. Rank 0 is the leader; only it writes the run folder.
        size: number of processes.
        local_size: number of processes on this machine.
        restarts: how many times torchrun has restarted the processes.
    """

    rank = 0
    size = 1
    local_size = 1

    def __init__(self, restarts: int = 0) -> None:
        self.restarts = restarts

    @property
    def leads(self) -> bool:
        """Whether this process is the leader, which writes the run folder."""
        return self.rank == 0

    def describe(self) -> str:
        """Return the number of processes and the backend that connects them, for people to read."""
        return "1"

    def share(self, n: int) -> range:
        """Return this process's part of ``range(n)``. The sizes of the parts differ by at most one."""
        return share_of(n, self.rank, self.size)

    def fail_together(self) -> AbstractContextManager[None]:
        """Return a context in which an error on one process raises on all processes."""
        return contextlib.nullcontext()

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, ordered by rank. Values must be picklable."""
        return [value]

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call ``make`` on the leader and return its result on all processes. An error in ``make`` raises on all."""
        return make()

    def check_same(self, what: str, value: object) -> None:
        """Raise ValueError unless ``value`` is equal on all processes."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the processes, added in whatever order is fastest."""

    def sum_in_order(self, rows: Tensor, n_rows: int) -> Tensor:
        """Return the sum [P] of the rows [t, P] that make up all processes' shares of ``n_rows``.

        Rows are added one after another, so the result is bitwise the same for any number of processes.
        """
        return sum_rows(rows)

    def all_gather_rows(self, rows: Tensor, n_rows: int) -> Tensor:
        """Concatenate the rows [t, P] that make up all processes' shares of ``n_rows``: [n_rows, P]."""
        return rows

    def check_all_alive(self) -> None:
        """Raise PeerLostError if a process has died. May take seconds, so call it only when this one is stopping."""


def sum_rows(rows: Tensor) -> Tensor:
    """Return the sum [P] of rows [t, P], added one after another as the native engine adds up tasks."""
    total = torch.zeros_like(rows[0])
    for row in rows:
        total += row
    return total

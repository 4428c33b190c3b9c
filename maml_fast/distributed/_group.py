"""The processes of one run, as the run sees them. One process is a group, too: this one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor

from maml_fast.distributed._shards import share_of

__all__ = ["Group", "add_up"]

T = TypeVar("T")


class Group:
    """A single process; :class:`maml_fast.distributed._ranks.Ranks` is several.

    What is called on one process must be called on all, in the same order.

    Attributes:
        rank: this process's number; 0 leads, and alone writes the record.
        size: the number of processes.
        local_size: of them, those on this machine.
        restarts: how often torchrun has started all of them anew.
    """

    rank = 0
    size = 1
    local_size = 1

    def __init__(self, restarts: int = 0) -> None:
        self.restarts = restarts

    @property
    def leads(self) -> bool:
        """Whether this process writes the record."""
        return self.rank == 0

    def describe(self) -> str:
        """How many processes there are, and what connects them."""
        return "1"

    def share(self, n: int) -> range:
        """This process's part of n things in a row; parts differ by one at most."""
        return share_of(n, self.rank, self.size)

    def together(self) -> AbstractContextManager[None]:
        """A part of the program that an error on any process ends on all of them."""
        return contextlib.nullcontext()

    def gathered(self, value: T) -> list[T]:
        """Every process's value, by rank; anything that can be pickled."""
        return [value]

    def from_first(self, make: Callable[[], T]) -> T:
        """What the leading process makes, on all of them; its error is an error on all."""
        return make()

    def check_same(self, what: str, value: object) -> None:
        """Raise ValueError unless all processes have the same."""

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, in the order that is fastest."""

    def add_in_order(self, rows: Tensor, n_rows: int) -> Tensor:
        """The sum [P] of the rows [t, P] of all processes' shares of ``n_rows``, added one after another.

        The bits are the same for any number of processes.
        """
        return add_up(rows)

    def join_rows(self, rows: Tensor, n_rows: int) -> Tensor:
        """The rows [t, P] of all processes' shares of ``n_rows``: [n_rows, P]."""
        return rows

    def check_all_are_there(self) -> None:
        """Raise PeerLostError if a process has died. May take seconds: for when this one is being stopped."""


def add_up(rows: Tensor) -> Tensor:
    """The sum [P] of rows [t, P], one after another; the native engine adds tasks up in the same way."""
    total = torch.zeros_like(rows[0])
    for row in rows:
        total += row
    return total

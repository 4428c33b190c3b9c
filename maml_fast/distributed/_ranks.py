"""Several processes, connected by ``torch.distributed``."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store

from maml_fast.distributed._errors import PeerFailedError
from maml_fast.distributed._group import Group, add_up
from maml_fast.distributed._roll import Roll
from maml_fast.distributed._shards import share_of

__all__ = ["Ranks"]

T = TypeVar("T")

STORE_TIMEOUT = datetime.timedelta(seconds=20)  # of a question to the store: its machine may be the one that is gone


class Ranks(Group):
    """The processes of the initialized default group.

    Args:
        name: of this use of the store; another one for each group of a process, the same on all processes.
        restarts: see :class:`Group`.
        on_cpus: the group that takes what lies on CPUs; None for the default one.
    """

    def __init__(self, name: str, restarts: int, on_cpus: Any = None) -> None:
        super().__init__(restarts)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._on_cpus = on_cpus
        host = socket.gethostname()
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, (host, os.getpid()), group=on_cpus)
        hosts = [each for each, _ in found]
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", hosts.count(host)))
        self._machines = int(os.environ.get("GROUP_WORLD_SIZE", len(set(hosts))))
        self.places = [f"process {process} on {host}" for host, process in found]
        store = _get_default_store().clone()
        store.set_timeout(STORE_TIMEOUT)
        self.roll = Roll(dist.PrefixStore(name, store), self.rank, self.places)

    def describe(self) -> str:
        """How many processes there are, and what connects them."""
        machines = f"{self._machines} machine{'s' if self._machines > 1 else ''}"
        return f"{self.size} on {machines}, by {dist.get_backend()}"

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A part of the program that an error on any process ends on all of them.

        Raises:
            PeerFailedError: on the processes that got through it.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        told = self.gathered(None if own is None else str(own) or type(own).__name__)
        if own is not None:
            raise own
        for rank, text in enumerate(told):
            if text is not None:
                raise PeerFailedError(f"rank {rank} ({self.places[rank]}): {text}")

    def gathered(self, value: T) -> list[T]:
        """Every process's value, by rank; anything that can be pickled."""
        values: list[Any] = [None] * self.size
        with self._naming_the_lost():
            dist.all_gather_object(values, value, group=self._on_cpus)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """What the leading process makes, on all of them; its error is an error on all."""
        made: list[Any] = [None]
        with self.together():
            if self.leads:
                made = [make()]
        with self._naming_the_lost():
            dist.broadcast_object_list(made, src=0, group=self._on_cpus)
        return made[0]

    def check_same(self, what: str, value: object) -> None:
        """Raise ValueError unless all processes have the same."""
        values = self.gathered(value)
        others = [rank for rank, its in enumerate(values) if its != values[0]]
        if others:
            ranks = f"rank{'s' if len(others) > 1 else ''} {', '.join(map(str, others))}"
            raise ValueError(f"{what} on {ranks} ({self.places[others[0]]}) differ from those on rank 0")

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, in the order that is fastest."""
        with self._naming_the_lost():
            self._meet(tensor)
            dist.all_reduce(tensor, group=self._group(tensor))

    def add_in_order(self, rows: Tensor, n_rows: int) -> Tensor:
        """The sum [P] of the rows [t, P] of all processes' shares, added one after another.

        Each process adds up its part of the columns, for all rows, and hands it round: it receives ``t * P + P``
        numbers, however many processes there are.
        """
        counts = self._shares(n_rows)
        n_columns = rows.shape[1]
        width = -(-n_columns // self.size)  # of a process's part
        parts = F.pad(rows, (0, width * self.size - n_columns)).view(len(rows), self.size, width)
        sent = parts.transpose(0, 1).reshape(-1, width)  # [size * t, width]
        mine = rows.new_empty(n_rows, width)
        sums = rows.new_empty(self.size, width)
        group = self._group(rows)
        with self._naming_the_lost():
            self._meet(rows)
            dist.all_to_all_single(mine, sent, counts, [len(rows)] * self.size, group=group)
            dist.all_gather(list(sums), add_up(mine), group=group)
        return sums.view(-1)[:n_columns]

    def join_rows(self, rows: Tensor, n_rows: int) -> Tensor:
        """The rows [t, P] of all processes' shares: [n_rows, P]."""
        counts = self._shares(n_rows)
        padded = F.pad(rows, (0, 0, 0, max(counts) - len(rows)))
        joined = [torch.empty_like(padded) for _ in counts]
        with self._naming_the_lost():
            self._meet(rows)
            dist.all_gather(joined, padded, group=self._group(rows))
        return torch.cat([part[:count] for part, count in zip(joined, counts, strict=True)])

    def check_all_are_there(self) -> None:
        """Raise PeerLostError if a process has died. May take seconds: for when this one is being stopped."""
        self.roll.check_pulses()

    def _shares(self, n: int) -> list[int]:
        return [len(share_of(n, rank, self.size)) for rank in range(self.size)]

    def _group(self, tensor: Tensor) -> Any:
        return self._on_cpus if tensor.device.type == "cpu" else None

    def _meet(self, tensor: Tensor) -> None:
        """Wait on the CPU for all processes, before something is queued on GPUs that would wait for a dead one."""
        if tensor.device.type != "cpu":
            dist.all_reduce(torch.zeros(1), group=self._on_cpus)

    @contextlib.contextmanager
    def _naming_the_lost(self) -> Iterator[None]:
        """Where a collective fails, tell which process is the cause."""
        try:
            yield
        except RuntimeError:
            self.roll.check()
            raise

"""A group of several processes, connected by ``torch.distributed``."""

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
from maml_fast.distributed._group import Group, sum_rows
from maml_fast.distributed._heartbeats import Heartbeats
from maml_fast.distributed._shards import share_of

__all__ = ["Ranks"]

T = TypeVar("T")

STORE_TIMEOUT = datetime.timedelta(seconds=20)  # of a store operation: the lost machine may be the one with the store


class Ranks(Group):
    """The processes of the initialized default group.

    Args:
        name: prefix of this group's keys in the store. It must be unique among the groups of a process, and the same
            on all processes.
        restarts: see :class:`Group`.
        cpu_group: the ``torch.distributed`` group for CPU tensors; None for the default one.
    """

    def __init__(self, name: str, restarts: int, cpu_group: Any = None) -> None:
        super().__init__(restarts)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._cpu_group = cpu_group
        host = socket.gethostname()
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, (host, os.getpid()), group=cpu_group)
        hosts = [each for each, _ in found]
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", hosts.count(host)))
        self._machines = int(os.environ.get("GROUP_WORLD_SIZE", len(set(hosts))))
        self.places = [f"process {process} on {host}" for host, process in found]
        store = _get_default_store().clone()
        store.set_timeout(STORE_TIMEOUT)
        self.heartbeats = Heartbeats(dist.PrefixStore(name, store), self.rank, self.places)

    def describe(self) -> str:
        machines = f"{self._machines} machine{'s' if self._machines > 1 else ''}"
        return f"{self.size} on {machines}, by {dist.get_backend()}"

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """Enter a context in which an error on one process raises on all processes.

        Raises:
            PeerFailedError: on the processes that had no error of their own.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        messages = self.all_gather(None if own is None else str(own) or type(own).__name__)
        if own is not None:
            raise own
        for rank, text in enumerate(messages):
            if text is not None:
                raise PeerFailedError(f"rank {rank} ({self.places[rank]}): {text}")

    def all_gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with self._naming_lost_peers():
            dist.all_gather_object(values, value, group=self._cpu_group)
        return values

    def broadcast(self, make: Callable[[], T]) -> T:
        made: list[Any] = [None]
        with self.fail_together():
            if self.leads:
                made = [make()]
        with self._naming_lost_peers():
            dist.broadcast_object_list(made, src=0, group=self._cpu_group)
        return made[0]

    def check_same(self, what: str, value: object) -> None:
        values = self.all_gather(value)
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            ranks = f"rank{'s' if len(others) > 1 else ''} {', '.join(map(str, others))}"
            raise ValueError(f"{what} on {ranks} ({self.places[others[0]]}) differ from those on rank 0")

    def all_reduce(self, tensor: Tensor) -> None:
        with self._naming_lost_peers():
            self._wait_for_all(tensor)
            dist.all_reduce(tensor, group=self._group(tensor))

    def sum_in_order(self, rows: Tensor, n_rows: int) -> Tensor:
        """Return the sum [P] of the rows [t, P] of all processes' shares, added one after another.

        Each process sums all rows of its part of the columns, and then the parts are gathered. A process receives
        ``t * P + P`` numbers, whatever the number of processes.
        """
        counts = self._shares(n_rows)
        n_columns = rows.shape[1]
        width = -(-n_columns // self.size)  # columns of a process
        parts = F.pad(rows, (0, width * self.size - n_columns)).view(len(rows), self.size, width)
        sent = parts.transpose(0, 1).reshape(-1, width)  # [size * t, width]
        mine = rows.new_empty(n_rows, width)
        sums = rows.new_empty(self.size, width)
        group = self._group(rows)
        with self._naming_lost_peers():
            self._wait_for_all(rows)
            dist.all_to_all_single(mine, sent, counts, [len(rows)] * self.size, group=group)
            dist.all_gather(list(sums), sum_rows(mine), group=group)
        return sums.view(-1)[:n_columns]

    def all_gather_rows(self, rows: Tensor, n_rows: int) -> Tensor:
        counts = self._shares(n_rows)
        padded = F.pad(rows, (0, 0, 0, max(counts) - len(rows)))
        gathered = [torch.empty_like(padded) for _ in counts]
        with self._naming_lost_peers():
            self._wait_for_all(rows)
            dist.all_gather(gathered, padded, group=self._group(rows))
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    def check_all_alive(self) -> None:
        self.heartbeats.check_alive()

    def _shares(self, n: int) -> list[int]:
        return [len(share_of(n, rank, self.size)) for rank in range(self.size)]

    def _group(self, tensor: Tensor) -> Any:
        return self._cpu_group if tensor.device.type == "cpu" else None

    def _wait_for_all(self, tensor: Tensor) -> None:
        """For GPU tensors, first wait for all processes on the CPU: a queued NCCL kernel would hang if one died."""
        if tensor.device.type != "cpu":
            dist.all_reduce(torch.zeros(1), group=self._cpu_group)

    @contextlib.contextmanager
    def _naming_lost_peers(self) -> Iterator[None]:
        """If a collective fails inside, raise an error that names the process that caused it."""
        try:
            yield
        except RuntimeError:
            self.heartbeats.check()
            raise

"""Joining the other processes of a run, and leaving them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from maml_fast.distributed._group import Group
from maml_fast.distributed._heartbeats import exit_reason_of
from maml_fast.distributed._ranks import Ranks

__all__ = ["joined"]

_ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # torchrun sets them
_numbers = itertools.count()  # numbers the groups that this process joins


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that torchrun started or ``torch.distributed`` already connects, or a group of this one alone.

    Raises:
        ValueError: an environment variable of torchrun is missing.
    """
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    own = not (dist.is_available() and dist.is_initialized())
    size = _requested_size() if own else dist.get_world_size()
    if size == 1:
        yield Group(restarts)
        return
    number = next(_numbers)
    if own:
        _connect(f"maml_fast/{restarts}/{number}")
    try:
        cpu_group = None if own or dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        group = Ranks(f"group {number}", restarts, cpu_group)
        try:
            yield group
        except BaseException as error:
            group.heartbeats.stop(exit_reason_of(error))
            raise
        group.heartbeats.stop()
    finally:
        if own:
            dist.destroy_process_group()


def _connect(name: str) -> None:
    """Initialize ``torch.distributed`` under a name that was not used before.

    torchrun keeps its store across restarts, so it still holds the addresses of earlier groups and dead processes.
    """
    store, rank, size = next(dist.rendezvous("env://"))
    with_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if with_gpus else "gloo"
    dist.init_process_group(backend, store=dist.PrefixStore(name, store), rank=rank, world_size=size)


def _requested_size() -> int:
    """Return the number of processes that the environment variables ask for."""
    asked = os.environ.get("WORLD_SIZE", "1")
    if "RANK" not in os.environ or asked == "1":
        return 1
    missing = [name for name in _ADDRESS if not os.environ.get(name)]
    if missing:
        raise ValueError(f"RANK is set, but {', '.join(missing)} is not; start the processes with torchrun")
    if not dist.is_available() or not dist.is_gloo_available():
        raise ValueError(f"WORLD_SIZE is {asked}, but this PyTorch was built without torch.distributed and gloo")
    return int(asked)

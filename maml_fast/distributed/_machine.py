"""Divides the cores and GPUs of a machine among the processes on it."""

from __future__ import annotations

import os
import warnings

import torch

from maml_fast.distributed._group import Group
from maml_fast.native import usable_cores

__all__ = ["cores_each", "take_gpu", "threads_of"]


def cores_each(processes: int) -> int:
    """Return how many cores each of ``processes`` processes on this machine has for itself, at least one."""
    return max(1, usable_cores() // processes)


def threads_of(group: Group, asked: int | None) -> int:
    """Return the number of threads for this process, so that the processes of a machine do not exceed its cores.

    ``asked=None`` is PyTorch's current number, at most this process's share of the cores. A single process may ask for
    any number.

    Raises:
        ValueError: the processes ask for more threads than the machine has cores.
    """
    cores = usable_cores()
    if group.size == 1:
        return torch.get_num_threads() if asked is None else asked
    if asked is None:
        if group.local_size > cores and group.rank == 0:
            warnings.warn(f"{group.local_size} processes share {cores} cores", RuntimeWarning, stacklevel=2)
        return min(torch.get_num_threads(), cores_each(group.local_size))
    if asked > cores_each(group.local_size):
        raise ValueError(
            f"{group.local_size} processes of {asked} threads need more than the {cores} cores of this machine; give "
            f"at most --threads {cores_each(group.local_size)}"
        )
    return asked


def take_gpu(group: Group) -> None:
    """Make the GPU of this process's local rank the current one. A single process keeps its current GPU.

    Raises:
        ValueError: the machine has fewer GPUs than processes.
    """
    n_gpus = torch.cuda.device_count()
    if group.size == 1 or n_gpus == 0:  # a missing GPU is reported where the device is used
        return
    local = int(os.environ.get("LOCAL_RANK", group.rank))
    if local >= n_gpus:
        raise ValueError(f"local rank {local} has no GPU: there are {n_gpus} here; start at most one process for each")
    torch.cuda.set_device(local)

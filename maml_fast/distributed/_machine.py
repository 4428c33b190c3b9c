"""What a process may take of its machine where others are on it: cores, and a GPU."""

from __future__ import annotations

import os
import warnings

import torch

from maml_fast.distributed._group import Group
from maml_fast.native import usable_cores

__all__ = ["cores_each", "take_gpu", "threads_of"]


def cores_each(processes: int) -> int:
    """The cores of this machine that each of so many processes has for itself, one at least."""
    return max(1, usable_cores() // processes)


def threads_of(group: Group, asked: int | None) -> int:
    """Threads for this process, so that all on this machine have no more than there are cores.

    None is as PyTorch has it, as far as cores last. A single process may ask for any number.

    Raises:
        ValueError: more are asked for than there are cores.
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
    """Make the GPU of this process's local rank the current one; a single process stays where it is.

    Raises:
        ValueError: the machine has fewer GPUs than processes.
    """
    there = torch.cuda.device_count()
    if group.size == 1 or there == 0:  # what wants a GPU says that there is none
        return
    local = int(os.environ.get("LOCAL_RANK", group.rank))
    if local >= there:
        raise ValueError(f"local rank {local} has no GPU: there are {there} here; start at most one process for each")
    torch.cuda.set_device(local)

"""Sharding of episodes: every meta-batch is cut into contiguous parts, one per rank."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch.distributed as dist

from maml_fast._arguments import flag, instance, int_from, optional, takes
from maml_fast.data._numbered import NumberedEpisodes

__all__ = ["shard", "share_of"]

Sampler = TypeVar("Sampler", bound=NumberedEpisodes)

MOST_RANKS = 2**20


def share_of(n: int, rank: int, size: int) -> range:
    """Return the part of ``range(n)`` for ``rank``; the first ``n % size`` ranks get one more than the others."""
    quotient, remainder = divmod(n, size)
    first = rank * quotient + min(rank, remainder)
    return range(first, first + quotient + (rank < remainder))


@takes(
    sampler=instance(NumberedEpisodes, "such as mf.EpisodeSampler"),
    rank=optional(int_from(0, MOST_RANKS)),
    world_size=optional(int_from(1, MOST_RANKS)),
    uneven=flag,
)
def shard(sampler: Sampler, rank: int | None = None, world_size: int | None = None, *, uneven: bool = False) -> Sampler:
    """Return a sampler that draws one process's part of every meta-batch.

    The parts of all processes together make up the meta-batches of ``sampler``. Each process draws only its own part.

    ``DistributedDataParallel`` averages over processes, each of which averages over its own episodes. This equals the
    mean over all episodes only if all parts have the same size.

    Args:
        sampler: sampler of the complete meta-batches: an EpisodeSampler, SinusoidSampler or StudentSampler.
        rank: rank of this process. ``None``: the rank in ``torch.distributed``, or 0 if that is not initialized.
        world_size: number of processes. ``None``: the world size in ``torch.distributed``, or 1 if that is not
            initialized.
        uneven: allow the sizes of the parts to differ by one episode. In that case multiply each loss by
            ``world_size * len(episodes.x_spt) / meta_batch_size``.

    Returns:
        A sampler of the same type as ``sampler``, or ``sampler`` itself if there is only one process.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``rank`` is not below ``world_size``; ``world_size`` above 1 is given without ``rank``; the
            meta-batch has fewer episodes than there are processes; or its size is not a multiple of ``world_size`` and
            ``uneven`` is false.
    """
    connected = dist.is_available() and dist.is_initialized()
    size = world_size or (dist.get_world_size() if connected else 1)
    number = (dist.get_rank() if connected and world_size is None else 0) if rank is None else rank
    if rank is None and world_size is not None and world_size > 1:
        raise ValueError(f"world_size {world_size} needs a rank as well; give both, or neither")
    if number >= size:
        raise ValueError(f"rank must be below world_size {size}, got {number}")
    n_tasks = sampler.meta_batch_size
    if n_tasks < size:
        raise ValueError(f"meta_batch_size {n_tasks} leaves some of {size} processes without an episode; raise it")
    if n_tasks % size and not uneven:
        raise ValueError(
            f"meta_batch_size {n_tasks} can't be divided by {size} processes, and their mean would weight episodes "
            "unequally; use a multiple, or uneven=True and weight each loss as its description says"
        )
    if size == 1:
        return sampler
    part = share_of(n_tasks, number, size)
    return dataclasses.replace(
        sampler,  # type: ignore[type-var]
        meta_batch_size=len(part),
        start_episode=sampler.start_episode + part.start,
        stride=sampler.numbers_per_batch,
    )

"""Who takes which episodes: every meta-batch is cut into parts, in the order of ranks."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch.distributed as dist

from maml_fast._arguments import flag, instance, optional, takes, whole
from maml_fast.data._numbered import NumberedEpisodes

__all__ = ["shard", "share_of"]

Sampler = TypeVar("Sampler", bound=NumberedEpisodes)

MOST_RANKS = 2**20


def share_of(n: int, rank: int, size: int) -> range:
    """Of n things in a row those of a rank; the first ranks have one more where n can't be divided."""
    least, more = divmod(n, size)
    first = rank * least + min(rank, more)
    return range(first, first + least + (rank < more))


@takes(
    sampler=instance(NumberedEpisodes, "such as mf.EpisodeSampler"),
    rank=optional(whole(0, MOST_RANKS)),
    world_size=optional(whole(1, MOST_RANKS)),
    uneven=flag,
)
def shard(sampler: Sampler, rank: int | None = None, world_size: int | None = None, *, uneven: bool = False) -> Sampler:
    """The sampler of one process's part of every meta-batch; all processes' parts together are the meta-batches.

    Only this part is drawn. ``DistributedDataParallel`` takes the mean over processes of each one's mean over its
    episodes, which is the mean over all episodes only if all parts are of one size.

    Args:
        sampler: of whole meta-batches: an EpisodeSampler, SinusoidSampler or StudentSampler.
        rank: number of the process; None: as ``torch.distributed`` says, or 0 where it is not initialized.
        world_size: number of processes; None: as ``torch.distributed`` says, or 1.
        uneven: let the parts differ by one episode. Multiply each loss by
            ``world_size * len(episodes.x_spt) / meta_batch_size`` then.

    Raises:
        TypeError: an argument is of another type.
        ValueError: there is no such rank, or the meta-batch can't be divided as asked.
    """
    connected = dist.is_available() and dist.is_initialized()
    size = world_size or (dist.get_world_size() if connected else 1)
    number = (dist.get_rank() if connected and world_size is None else 0) if rank is None else rank
    if rank is None and world_size is not None and world_size > 1:
        raise ValueError(f"world_size {world_size} needs a rank beside it; give rank, or neither")
    if number >= size:
        raise ValueError(f"rank must be below world_size {size}, got {number}")
    n_tasks = sampler.meta_batch_size
    if n_tasks < size:
        raise ValueError(f"meta_batch_size {n_tasks} leaves some of {size} processes without an episode; raise it")
    if n_tasks % size and not uneven:
        raise ValueError(
            f"meta_batch_size {n_tasks} can't be divided by {size} processes, and their mean would weigh episodes "
            "unequally; use a multiple, or uneven=True and weigh each loss as its description says"
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

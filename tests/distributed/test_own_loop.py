"""A loop of one's own on many processes: PyTorch's DistributedDataParallel around a MAML."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import pytest
import torch
import torch.distributed as dist
from small import two_blocks
from torch.nn.parallel import DistributedDataParallel

import maml_fast as mf
from maml_fast.distributed import shard
from maml_fast.distributed.joining import joined

SAMPLER = mf.EpisodeSampler(mf.data.make_noise(8, 4, (1, 10, 10)), 5, 1, 2, 6)


def trained(maml: mf.MAML, call: torch.nn.Module, batches: Iterable[mf.Episodes], weight: float = 1.0) -> list:
    optimiser = torch.optim.SGD(maml.parameters(), 0.1)
    for episodes in islice(batches, 3):
        optimiser.zero_grad()
        (call(episodes.to(torch.float64)).loss * weight).backward()
        optimiser.step()
    return [parameter.detach().clone() for parameter in maml.parameters()]


def learner() -> mf.MAML:
    return mf.MAML(two_blocks(), 0.1, 2, learn_inner_lr=True)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # by PyTorch itself
@pytest.mark.parametrize("size", [2, 4])
def test_data_parallel(ranks, size):
    """Six tasks on four processes: two, two, one and one, whose losses must be weighed."""
    alone = learner()
    expected = trained(alone, alone, SAMPLER)

    def task(rank):
        dist.init_process_group("gloo")
        maml, part = learner(), shard(SAMPLER, uneven=True)
        weight = size * part.meta_batch_size / SAMPLER.meta_batch_size
        found = trained(maml, DistributedDataParallel(maml), part, weight)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        dist.destroy_process_group()

    ranks.succeed(size, task)


def test_processes_that_are_connected_already_stay_so(ranks):
    def task(rank):
        dist.init_process_group("gloo")
        for _ in range(2):
            with joined() as group:
                assert group.gathered(rank) == [0, 1]
        assert dist.is_initialized()
        dist.destroy_process_group()

    ranks.succeed(2, task)

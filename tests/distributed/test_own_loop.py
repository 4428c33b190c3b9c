"""A loop of one's own on many processes: PyTorch's DistributedDataParallel around a MAML."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from itertools import islice

import pytest
import torch
import torch.distributed as dist
from small import two_blocks
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector

import maml_fast as mf
from maml_fast.distributed import shard
from maml_fast.distributed._joining import joined

pytestmark = pytest.mark.backendless

SAMPLER = mf.EpisodeSampler(mf.data.make_noise(8, 4, (1, 10, 10)), 5, 1, 2, 6)


def trained(maml: mf.MAML, call: torch.nn.Module, batches: Iterable[mf.Episodes], weight: float = 1.0) -> list:
    optimizer = torch.optim.SGD(maml.parameters(), 0.1)
    for episodes in islice(batches, 3):
        optimizer.zero_grad()
        (call(episodes.to(torch.float64)).loss * weight).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in maml.parameters()]


def learner() -> mf.MAML:
    return mf.MAML(two_blocks(), inner_lr=0.1, inner_steps=2, learn_inner_lr=True)


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
                assert group.all_gather(rank) == [0, 1]
        assert dist.is_initialized()
        dist.destroy_process_group()

    ranks.succeed(2, task)


@pytest.mark.parametrize(
    ("example", "package"), [("with_accelerate", "accelerate"), ("with_fabric", "lightning_fabric")]
)
def test_examples_of_other_launchers(ranks, example, package):
    """They come to the same on two processes as on one, where what they are made with is installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")

    def train() -> torch.Tensor:
        warnings.simplefilter("ignore")  # theirs
        return parameters_to_vector(importlib.import_module(example).main(iterations=2).parameters()).detach()

    ended: list[torch.Tensor] = []
    for size in (1, 2):
        files = [ranks.folder / f"parameters-{size}-{rank}" for rank in range(size)]
        place = {"TORCHELASTIC_RUN_ID": "0", "GROUP_RANK": "0", "ACCELERATE_USE_CPU": "true"}
        ranks.succeed(size, lambda rank, files=files: torch.save(train(), files[rank]), place)
        ended += map(torch.load, files)
    alone, one, other = ended
    assert torch.equal(one, other)
    assert (one - alone).norm() < 1e-3 * alone.norm()

"""Every process's part of the meta-batches."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

import maml_fast as mf
from maml_fast import data
from maml_fast.distributed import shard

BANK = data.make_noise(6, 8, (1, 4, 4))
SAMPLERS = {
    "images": mf.EpisodeSampler(BANK, 3, 1, 2, 8, seed=5, rotate=True, start_episode=16),
    "waves": data.SinusoidSampler(4, 4, 8, seed=5, start_episode=16),
    "students": data.StudentSampler(data.simulate_students(20, 6, 2), 2, 4, 8, seed=5, start_episode=16),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_parts_make_up_the_whole(sampler, size):
    parts = [shard(sampler, rank, size, uneven=True) for rank in range(size)]
    sizes = [part.meta_batch_size for part in parts]
    assert sum(sizes) == 8
    assert max(sizes) - min(sizes) <= 1
    for whole, *cut in islice(zip(sampler, *parts, strict=True), 3):
        for tensor, *of_parts in zip(whole, *cut, strict=True):
            assert torch.equal(tensor, torch.cat(of_parts))


def test_a_part_of_a_sampler_of_few_meta_batches_has_as_many():
    sampler = mf.EpisodeSampler(BANK, 3, 1, 2, 4, batches=3)
    part = shard(sampler, 1, 2)
    assert len(part) == len(list(part)) == 3
    assert torch.equal(part.batch(2).x_qry, sampler.batch(2).x_qry[2:])
    assert "2 episodes from 2, every 4 of seed 0" in repr(part)


def test_alone_it_is_the_sampler_itself():
    sampler = SAMPLERS["images"]
    assert shard(sampler) is sampler


REFUSED = {
    "uneven": ({"rank": 0, "world_size": 3}, "meta_batch_size 8 can't be divided by 3 processes.*uneven=True"),
    "too many": ({"rank": 0, "world_size": 9, "uneven": True}, "8 leaves some of 9 processes without an episode"),
    "no such rank": ({"rank": 2, "world_size": 2}, "rank must be below world_size 2, got 2"),
    "which one": ({"world_size": 2}, "world_size 2 needs a rank"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    given, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        shard(SAMPLERS["images"], **given)

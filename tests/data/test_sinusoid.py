"""Sine-wave tasks: the same for ever, in their ranges, and of the form that they are said to be."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from maml_fast import MAML, Episodes, evaluate
from maml_fast.data import SinusoidSampler
from maml_fast.models import MLP


def joined(batches: list[Episodes]) -> Episodes:
    return Episodes(*map(torch.cat, zip(*batches, strict=True)))


def assert_same(one: Episodes, other: Episodes) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_shapes_and_types() -> None:
    batch = SinusoidSampler(k_shot=3, k_query=7, meta_batch_size=4).batch(0)
    assert isinstance(batch, Episodes)
    assert [tuple(part.shape) for part in batch] == [(4, 3, 1), (4, 3, 1), (4, 7, 1), (4, 7, 1)]
    assert {part.dtype for part in batch} == {torch.float32}
    assert SinusoidSampler().batch(0).x_spt.shape == (25, 10, 1)


def test_points_lie_on_the_wave() -> None:
    sampler = SinusoidSampler(meta_batch_size=8, seed=5)
    batch, (amplitudes, phases) = sampler.batch(3), sampler.waves(3)
    for x, y in ((batch.x_spt, batch.y_spt), (batch.x_qry, batch.y_qry)):
        wave = amplitudes[:, None] * np.sin(x[..., 0].double().numpy() - phases[:, None])
        np.testing.assert_allclose(y[..., 0].numpy(), wave, atol=1e-5)


def test_ranges_are_filled_evenly() -> None:
    sampler = SinusoidSampler(k_shot=5, k_query=5, meta_batch_size=4000)
    amplitudes, phases = sampler.waves(0)
    batch = sampler.batch(0)
    for values, low, high in (
        (amplitudes, 0.1, 5.0),
        (phases, 0.0, np.pi),
        (batch.x_spt.numpy(), -5.0, 5.0),
        (batch.x_qry.numpy(), -5.0, 5.0),
    ):
        assert low <= values.min()
        assert values.max() <= high
        counts, _ = np.histogram(values, bins=10, range=(low, high))
        assert np.abs(counts / values.size - 0.1).max() < 0.025
    pairs = np.corrcoef([amplitudes, phases, batch.x_spt[:, 0, 0], batch.x_spt[:, 1, 0], batch.x_qry[:, 0, 0]])
    assert np.abs(pairs - np.eye(5)).max() < 0.06


def test_an_episode_is_the_same_in_any_meta_batch() -> None:
    whole = SinusoidSampler(meta_batch_size=6, seed=3).batch(0)
    pairs = SinusoidSampler(meta_batch_size=2, seed=3)
    assert_same(whole, joined([pairs.batch(i) for i in (0, 1, 2)]))
    assert_same(whole, joined(list(islice(pairs, 3))))
    assert_same(pairs.batch(2), SinusoidSampler(meta_batch_size=2, seed=3, start_episode=4).batch(0))
    loader = DataLoader(SinusoidSampler(meta_batch_size=2, seed=3, batches=3), batch_size=None)
    assert_same(whole, joined(list(loader)))


def test_seeds_episodes_and_halves_differ() -> None:
    one = SinusoidSampler(meta_batch_size=2)
    assert not torch.equal(one.batch(0).x_spt, one.batch(1).x_spt)
    assert not torch.equal(one.batch(0).x_spt, one.batch(0).x_qry)
    assert not torch.equal(one.batch(0).x_spt, SinusoidSampler(meta_batch_size=2, seed=1).batch(0).x_spt)


def test_numbers_are_pinned() -> None:
    """A seed means the same tasks in every version; whoever changes this breaks everybody's records."""
    sampler = SinusoidSampler(k_shot=1, k_query=1, meta_batch_size=2, seed=7, start_episode=2**32 - 1)
    amplitudes, phases = sampler.waves(0)
    np.testing.assert_allclose(amplitudes, [0.660243892406442, 0.8009476884489863], rtol=1e-12)
    np.testing.assert_allclose(phases, [1.2123013040796056, 2.4546321508359523], rtol=1e-12)
    np.testing.assert_allclose(sampler.batch(0).x_spt.flatten(), [3.8590643, -4.8377295], rtol=1e-6)


def test_length_is_that_of_one_iteration() -> None:
    sampler = SinusoidSampler(batches=3)
    assert len(sampler) == len(list(sampler)) == 3
    with pytest.raises(IndexError, match="no meta-batch 3; this sampler has 3"):
        sampler.batch(3)
    with pytest.raises(TypeError, match="this SinusoidSampler is endless"):
        len(SinusoidSampler())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k_shot": 0}, ValueError, "k_shot must be at least 1, got 0"),
        ({"k_query": 2.5}, TypeError, "k_query must be an integer, got 2.5"),
        ({"meta_batch_size": 0}, ValueError, "meta_batch_size must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be from 0 to"),
        ({"start_episode": -1}, ValueError, "start_episode must be from 0 to"),
        ({"batches": 0}, ValueError, "batches must be at least 1, got 0"),
    ],
)
def test_bad_arguments(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        SinusoidSampler(**options)


def test_maml_learns_to_adapt_to_waves() -> None:
    torch.manual_seed(0)
    maml = MAML(MLP((1, 40, 40, 1), init_std=0.3), inner_lr=0.02, order=2, loss_fn=F.mse_loss, task_chunk=None)
    held_out = SinusoidSampler(seed=1)
    untrained = evaluate(maml, held_out, 50)
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-2)
    for episodes in SinusoidSampler(batches=150):
        optimizer.zero_grad()
        maml(episodes).loss.backward()
        optimizer.step()
    trained = evaluate(maml, held_out, 50)
    assert trained.losses[1] < 0.6 * untrained.losses[1]
    assert trained.losses[1] < 0.6 * trained.losses[0]

"""Crops, flips and color jitter of episodes: against plain Python, and by what they promise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from augmentation_oracle import augmented_episode
from episode_samplers import assert_same, ragged_bank

from maml_fast import native
from maml_fast.data import EpisodeSampler, ImageBank
from maml_fast.data import _episodes as episodes_module

BACKENDS = ["reference", pytest.param("native", marks=pytest.mark.native)]
CROP, FLIP, JITTER = {"crop_padding": 2}, {"flip": True}, {"color_jitter": 0.9}
KINDS = {"crop": CROP, "flip": FLIP, "jitter": JITTER, "all": CROP | FLIP | JITTER | {"rotate": True}}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with native.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 4, 4), (3, 6, 6)])
def test_every_episode_is_the_one_the_oracle_draws(backend, kind, shape):
    bank = ragged_bank([9, 12, 10, 9], shape)
    sampler = EpisodeSampler(bank, 3, 2, 4, 2, seed=2**63 + 5, start_episode=2**32 - 1, scale="raw", **KINDS[kind])
    batch = sampler.batch(0)
    for t in range(2):
        for actual, wanted in zip(batch, augmented_episode(sampler, 2**32 - 1 + t), strict=True):
            np.testing.assert_array_equal(actual[t].numpy(), wanted)


@pytest.mark.native
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 20), (2, 9, 9)])
def test_backends_agree_bitwise_for_any_number_of_threads(shape):
    options = {"bank": ragged_bank([9] * 12, shape), "n_way": 5, "k_shot": 1, "k_query": 4, "seed": 7, **KINDS["all"]}
    with native.use_backend("reference"):
        expected = [EpisodeSampler(**options, meta_batch_size=3).batch(i) for i in range(4)]
    for threads in (1, 3):
        made = EpisodeSampler(**options, meta_batch_size=3, batches=4, prefetch=2, threads=threads)
        for batch, wanted in zip(made, expected, strict=True):
            assert_same(batch, wanted)
    large = EpisodeSampler(**options, meta_batch_size=12).batch(0)
    assert torch.equal(large.x_qry, torch.cat([batch.x_qry for batch in expected]))


def test_only_pixels_change(backend):
    bank = ragged_bank([9] * 6, (3, 8, 8))
    plain = EpisodeSampler(bank, 4, 2, 3, 5, seed=1).batch(2)
    changed = EpisodeSampler(bank, 4, 2, 3, 5, seed=1, **CROP, **FLIP, **JITTER).batch(2)
    assert torch.equal(changed.y_spt, plain.y_spt)
    assert torch.equal(changed.y_qry, plain.y_qry)
    assert not (changed.x_spt == plain.x_spt).flatten(2).all(dim=2).any()
    more_queries = EpisodeSampler(bank, 4, 2, 7, 5, seed=1, **CROP, **FLIP, **JITTER).batch(2)
    assert torch.equal(more_queries.x_spt, changed.x_spt)


def test_a_flip_is_a_fair_coin_for_every_image(backend):
    bank = ImageBank.from_array(np.arange(2, dtype=np.uint8).reshape(1, 1, 1, 1, 2).repeat(8, axis=1))  # pixels 0, 1
    batch = EpisodeSampler(bank, 1, 3, 5, 500, scale="raw", **FLIP).batch(0)
    for x in (batch.x_spt, batch.x_qry):
        flipped = x[:, :, 0, 0, 0] == 1
        assert 0.45 < flipped.float().mean() < 0.55
        assert len({tuple(row) for row in flipped.tolist()}) == 2 ** flipped.shape[1]  # independently of each other


def test_a_crop_moves_by_up_to_the_padding_and_repeats_the_border(backend):
    bank = ImageBank.from_array(np.arange(25, dtype=np.uint8).reshape(1, 1, 1, 5, 5).repeat(8, axis=1))
    x = EpisodeSampler(bank, 1, 3, 5, 200, scale="raw", crop_padding=2).batch(0).x_qry.flatten(0, 1)[:, 0].long()
    rows, columns = x[:, 2, 2] // 5 - 2, x[:, 2, 2] % 5 - 2  # of the center
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 25
    places = torch.arange(5)
    for image, row, column in zip(x, rows, columns, strict=True):
        assert torch.equal(image, 5 * (places + row).clamp(0, 4)[:, None] + (places + column).clamp(0, 4))


def test_jitter_of_gray_images_is_affine_about_the_mean(backend):
    bank = ImageBank.from_array(np.array([100, 120, 140, 80], np.uint8).reshape(1, 1, 1, 2, 2).repeat(8, axis=1))
    x = EpisodeSampler(bank, 1, 3, 5, 400, scale="raw", color_jitter=0.3).batch(0).x_qry.view(-1, 2, 2)
    brightness = x.mean(dim=(1, 2)) / 110
    contrast = (x[:, 1, 0] - x[:, 1, 1]) / 60 / brightness
    for factors in (brightness, contrast):
        assert 0.68 < factors.min() < 0.72
        assert 1.28 < factors.max() < 1.32
        assert abs(factors.mean() - 1) < 0.02


def test_jitter_of_saturation_multiplies_the_distance_from_gray(backend):
    color = np.array([140, 90, 60], np.uint8)
    bank = ImageBank.from_array(color.reshape(1, 1, 3, 1, 1).repeat(8, axis=1))  # the mean gray is the pixel's own
    x = EpisodeSampler(bank, 1, 3, 5, 400, scale="raw", color_jitter=0.2).batch(0).x_qry.view(-1, 3)
    shares = torch.tensor([77.0, 150.0, 29.0]) / 256
    brightness = x @ shares / (torch.from_numpy(color).float() @ shares)
    distance = (x[:, 0] - x[:, 2]) / 80 / brightness  # contrast times saturation
    for factors, jitter in ((brightness, (0.8, 1.2)), (distance, (0.8**2, 1.2**2))):
        assert jitter[0] - 0.02 < factors.min() < jitter[0] + 0.05
        assert jitter[1] - 0.05 < factors.max() < jitter[1] + 0.02


def test_on_a_gpu_augmented_episodes_are_made_on_the_cpu(monkeypatch):
    monkeypatch.setattr(episodes_module, "can_draw", lambda device: True)
    monkeypatch.setattr(episodes_module, "GpuSampler", lambda *_: "kernels")
    bank = ragged_bank([9] * 6, (1, 4, 4))
    assert EpisodeSampler(bank, 2, 1, 1, 1).gpu_sampler == "kernels"
    for kind in (CROP, FLIP, JITTER):
        assert EpisodeSampler(bank, 2, 1, 1, 1, **kind).gpu_sampler is None


BAD = [
    ({"crop_padding": -1}, ValueError, "crop_padding must be at least 0, got -1"),
    ({"crop_padding": 4}, ValueError, "crop_padding must be below the side of the images, got 4 for 4 x 5 in bank"),
    ({"crop_padding": 0.5}, TypeError, "crop_padding must be an integer, got 0.5"),
    ({"flip": 1}, TypeError, "flip must be True or False, got 1"),
    ({"color_jitter": 1.0}, ValueError, "color_jitter must be finite, at least 0 and below 1, got 1.0"),
    ({"color_jitter": -0.1}, ValueError, "color_jitter must be finite, at least 0 and below 1, got -0.1"),
    ({"color_jitter": True}, TypeError, "color_jitter must be a number, got True"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_parameters(options, error, message):
    with pytest.raises(error, match=message):
        EpisodeSampler(ragged_bank([5, 5], (1, 4, 5)), 2, 1, 1, 1, **options)


def test_repr_says_that_images_are_augmented():
    assert ", augmented" in repr(EpisodeSampler(ragged_bank([5, 5], (1, 4, 5)), 2, 1, 1, 1, **FLIP))

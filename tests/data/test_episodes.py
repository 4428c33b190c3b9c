"""What an episode is, for every backend: against a plain-Python oracle, and by the properties it promises.

Each test that names a backend runs for the NumPy twin, and once more for native code; the latter is marked ``native``,
so that it is deselected, visibly, where the reference runs.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from episode_oracle import episode
from episode_samplers import assert_same, ragged_bank, samplers
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_fast import native
from maml_fast.data._bank import ImageBank
from maml_fast.data._episodes import Episodes, EpisodeSampler

BACKENDS = ["reference", pytest.param("native", marks=pytest.mark.native)]


def numbered_bank(n_classes: int, n_images: int) -> ImageBank:
    """One-pixel images with two channels: the class number and the image number."""
    numbers = np.stack(np.meshgrid(range(n_classes), range(n_images), indexing="ij"), axis=-1)
    return ImageBank.from_array(numbers[..., None, None].astype(np.uint8))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with native.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("name", BACKENDS)
@settings(deadline=None, max_examples=40)
@given(sampler=samplers(), i=st.integers(0, 2**40))
def test_every_episode_is_the_one_the_oracle_draws(name: str, sampler: EpisodeSampler, i: int) -> None:
    with native.use_backend(name):
        batch = sampler.batch(i)
    for t in range(sampler.meta_batch_size):
        expected = episode(sampler, sampler.start_episode + i * sampler.meta_batch_size + t)
        for actual, wanted in zip(batch, expected, strict=True):
            assert actual.dtype == torch.from_numpy(wanted).dtype
            np.testing.assert_array_equal(actual[t].numpy(), wanted)


@pytest.mark.parametrize(
    ("counts", "n_way", "k_shot", "k_query", "image_shape"),
    [
        ([20] * 40, 5, 1, 15, (1, 28, 28)),
        ([20] * 40, 20, 5, 15, (1, 9, 9)),
        ([2] * 3, 3, 1, 1, (3, 8, 8)),  # every class and every image is used
        ([40, 16, 300, 25], 4, 1, 15, (2, 5, 5)),
        ([3], 1, 1, 2, (1, 1, 1)),
        ([64] * 70, 64, 1, 3, (3, 2, 2)),
    ],
)
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("scale", ["unit", "raw", "inverted"])
@pytest.mark.parametrize("name", BACKENDS)
def test_the_backends_agree_bitwise(
    name: str, counts: list[int], n_way: int, k_shot: int, k_query: int, image_shape: tuple, rotate: bool, scale: str
) -> None:
    bank = ragged_bank(counts, image_shape)
    make = {"scale": scale, "rotate": rotate, "start_episode": 2**32 - 5}  # the counter's high word changes under way
    with native.use_backend("reference"):
        expected = EpisodeSampler(bank, n_way, k_shot, k_query, 8, 2**64 - 1, **make).batch(0)
    with native.use_backend(name):
        halves = EpisodeSampler(bank, n_way, k_shot, k_query, 4, 2**64 - 1, **make)
        assert_same(Episodes(*map(torch.cat, zip(halves.batch(0), halves.batch(1), strict=True))), expected)


@settings(deadline=None)
@given(
    n_way=st.integers(1, 6),
    k_shot=st.integers(1, 5),
    k_query=st.integers(1, 5),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    seed=st.integers(0, 2**64 - 1),
)
def test_what_an_episode_promises(n_way: int, k_shot: int, k_query: int, more: tuple[int, int], seed: int) -> None:
    bank = numbered_bank(n_way + more[0], k_shot + k_query + more[1])
    batch = EpisodeSampler(bank, n_way, k_shot, k_query, 3, seed, scale="raw").batch(0)
    assert batch.x_spt.shape == (3, n_way * k_shot, 2, 1, 1)
    assert batch.x_qry.shape == (3, n_way * k_query, 2, 1, 1)
    for x_spt, y_spt, x_qry, y_qry in zip(*batch, strict=True):
        assert torch.bincount(y_spt).tolist() == [k_shot] * n_way
        assert torch.bincount(y_qry).tolist() == [k_query] * n_way
        pixels = torch.cat((x_spt, x_qry)).flatten(1).int().tolist()
        assert len({tuple(image) for image in pixels}) == n_way * (k_shot + k_query)  # distinct, and disjoint
        classes = dict(zip(torch.cat((y_spt, y_qry)).tolist(), (image[0] for image in pixels), strict=True))
        assert len(set(classes.values())) == n_way
        assert [classes[label] for label in torch.cat((y_spt, y_qry)).tolist()] == [image[0] for image in pixels]


def test_support_and_query_are_shuffled(backend: str) -> None:
    batch = EpisodeSampler(numbered_bank(9, 20), 5, 2, 6, 50).batch(0)
    for labels in (batch.y_spt, batch.y_qry):
        assert len({tuple(row) for row in labels.tolist()}) == 50
        assert not (labels.diff() >= 0).all(dim=1).any()


def test_rotation_turns_each_class_by_a_turn_of_its_own(backend: str) -> None:
    bank = ragged_bank([12] * 6, (2, 5, 5))
    plain = EpisodeSampler(bank, 4, 2, 3, 30, seed=5).batch(0)
    turned = EpisodeSampler(bank, 4, 2, 3, 30, seed=5, rotate=True).batch(0)
    seen = set()
    for t in range(30):
        turns: dict[int, set[int]] = {}
        for x, y, z in ((plain.x_spt, plain.y_spt, turned.x_spt), (plain.x_qry, plain.y_qry, turned.x_qry)):
            for before, label, after in zip(x[t], y[t].tolist(), z[t], strict=True):
                k = [k for k in range(4) if torch.equal(torch.rot90(before, k, (1, 2)), after)]
                turns.setdefault(label, set()).update(k)
        assert all(len(k) == 1 for k in turns.values())
        seen.add(tuple(min(turns[label]) for label in range(4)))
    assert len(seen) > 20  # of 256 combinations: classes do not share a turn


def test_scales(backend: str) -> None:
    bank = ImageBank.from_array(np.arange(256, dtype=np.uint8).reshape(1, 2, 1, 8, 16))
    x = {scale: EpisodeSampler(bank, 1, 1, 1, 1, scale=scale).batch(0) for scale in ("unit", "raw", "inverted")}
    raw = torch.cat((x["raw"].x_spt, x["raw"].x_qry)).flatten()
    assert sorted(raw.tolist()) == list(range(256))
    assert torch.equal(torch.cat((x["unit"].x_spt, x["unit"].x_qry)).flatten(), raw / 255)
    assert torch.equal(torch.cat((x["inverted"].x_spt, x["inverted"].x_qry)).flatten(), 1 - raw / 255)


def test_support_does_not_depend_on_the_number_of_queries(backend: str) -> None:
    few, many = (EpisodeSampler(numbered_bank(9, 30), 5, 2, q, 4, seed=1).batch(0) for q in (1, 20))
    assert torch.equal(few.x_spt, many.x_spt)
    assert torch.equal(few.y_spt, many.y_spt)


def test_seeds_and_episodes_differ(backend: str) -> None:
    bank = ragged_bank([20] * 30)
    batches = [EpisodeSampler(bank, 5, 1, 5, 1, seed).batch(i) for seed in (0, 1, 2**32) for i in (0, 1)]
    assert len({batch.x_spt.numpy().tobytes() for batch in batches}) == 6


def chi_square(observed: np.ndarray, cells: int) -> float:
    """Return how many standard deviations the chi-square statistic of a uniform draw is above its mean."""
    counts = np.bincount(observed, minlength=cells)
    assert len(counts) == cells
    expected = len(observed) / cells
    return float(((counts - expected) ** 2 / expected).sum() - (cells - 1)) / (2 * (cells - 1)) ** 0.5


def test_draws_are_uniform() -> None:
    """Classes, images, order, and each given the last episode's or its neighbor's, over 20,000 episodes."""
    n_classes, n_images, n_way = 11, 7, 3
    batch = EpisodeSampler(numbered_bank(n_classes, n_images), n_way, 2, 3, 20_000, seed=3, scale="raw").batch(0)
    classes, images = (batch.x_spt[:, :, c, 0, 0].long().numpy() for c in (0, 1))  # [T, N*K]
    labels = batch.y_spt.numpy()
    by_label = np.take_along_axis(classes, np.argsort(labels, axis=1), axis=1)[:, ::2]  # [T, N]
    first, second = by_label[:, 0], by_label[:, 1]
    assert chi_square(first, n_classes) < 5
    assert chi_square(first * (n_classes - 1) + second - (second > first), n_classes * (n_classes - 1)) < 5
    assert chi_square(first[:-1] * n_classes + first[1:], n_classes**2) < 5  # no memory from one episode to the next
    assert chi_square(images[:, 0], n_images) < 5
    assert chi_square(labels[:, 0] * n_images + images[:, 0], n_way * n_images) < 5
    assert chi_square(batch.y_qry.numpy()[:, -1] * n_way + labels[:, -1], n_way**2) < 5


def test_a_mapped_file_is_sampled_in_place(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "bank.npy"
    np.save(path, np.zeros((5, 4, 1, 3, 3), dtype=np.uint8))
    sampler = EpisodeSampler(ImageBank.from_npy(path), 3, 1, 2, 2, scale="raw")
    assert isinstance(sampler.bank.images, np.memmap)
    assert not sampler.batch(0).x_spt.any()
    np.load(path, mmap_mode="r+")[...] = 7
    assert (sampler.batch(0).x_spt == 7).all()


def test_a_pickled_sampler_draws_the_same(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "bank.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (9, 8, 1, 20, 20), dtype=np.uint8))
    sampler = EpisodeSampler(ImageBank.from_npy(path), 3, 1, 2, 2, 5, rotate=True, batches=4)
    data = pickle.dumps(sampler)
    assert len(data) < 5000  # a mapped bank travels by its name
    for ours, theirs in zip(sampler, pickle.loads(data), strict=True):
        assert_same(ours, theirs)

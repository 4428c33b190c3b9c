from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.random import RandomState

from maml_fast import data
from maml_fast.data import draw_strokes

pytestmark = pytest.mark.backendless


@pytest.fixture(scope="module")
def alphabet():
    """One alphabet, 20 characters of 12 drawings."""
    return draw_strokes(20, 12)


def test_shapes_and_names(alphabet):
    assert len(alphabet) == 20
    assert alphabet.image_shape == (1, 28, 28)
    assert (alphabet.counts == 12).all()
    assert alphabet.name == "strokes"
    assert alphabet.class_names[0] == "alphabet01/character01"
    assert draw_strokes(23, 1, size=8).class_names[22] == "alphabet02/character03"


def test_the_same_seed_gives_the_same_bytes_on_every_machine():
    bank = draw_strokes(3, 4, seed=7)
    digest = hashlib.sha256(bank.images.tobytes()).hexdigest()
    assert digest == "53b7cd1444f93d11aab377219b9e9e84fb85abdb0934fdd228faf7e2c87b601a"


def test_seeds_differ_and_classes_stand_alone(alphabet):
    np.testing.assert_array_equal(draw_strokes(2, 12).images, alphabet.images[:24])
    assert (draw_strokes(1, 12, seed=1).images != alphabet.images[:12]).any()


def test_ink_is_black_on_white_and_mostly_on_the_paper(alphabet):
    ink = (255 - alphabet.images.astype(np.float64)).mean(axis=(1, 2, 3)) / 255  # share of the paper
    assert ink.min() > 0.02
    assert ink.max() < 0.5
    border = np.ones((28, 28), bool)
    border[1:-1, 1:-1] = False
    assert (alphabet.images[:, 0, border] < 128).mean() < 0.05


def test_drawings_of_a_character_differ(alphabet):
    assert len(np.unique(alphabet.images.reshape(240, -1), axis=0)) == 240


def nearest_neighbor_accuracy(bank, blur: int, episodes: int = 150) -> float:
    """5-way 1-shot by the nearest picture, each blurred over squares of `blur` pixels."""
    random, right = RandomState(0), 0.0
    side = 28 // blur
    pictures = (
        bank.images.reshape(len(bank), -1, side, blur, side, blur).mean(axis=(3, 5)).reshape(len(bank), -1, side**2)
    )
    for _ in range(episodes):
        classes = random.permutation(len(bank))[:5]
        chosen = random.permutation(pictures.shape[1])
        support, query = pictures[classes, chosen[0]], pictures[classes, chosen[1]]
        distance = ((query[:, None] - support[None]) ** 2).sum(axis=2)
        right += (distance.argmin(axis=1) == np.arange(5)).mean()
    return right / episodes


def test_pixels_alone_neither_solve_it_nor_say_nothing():
    bank = draw_strokes(100, 4)
    assert 0.35 < nearest_neighbor_accuracy(bank, 1) < 0.6
    assert nearest_neighbor_accuracy(bank, 2) < 0.7


@pytest.mark.parametrize("size", [8, 28, 64])
def test_sizes(size):
    bank = draw_strokes(2, 2, size=size)
    assert bank.image_shape == (1, size, size)
    assert bank.images.min() < 100


def test_larger_pictures_show_the_same_characters(alphabet):
    large = draw_strokes(2, 12, size=56).images.reshape(24, 28, 2, 28, 2).mean(axis=(2, 4))
    assert np.abs(large - alphabet.images[:24, 0]).mean() < 6


def test_progress():
    told = []
    draw_strokes(3, 1, size=8, progress=lambda *counts: told.append(counts))
    assert told == [(1, 3), (2, 3), (3, 3)]


BAD = {
    "classes": ({"n_classes": 0}, "n_classes must be at least 1, got 0"),
    "images": ({"n_images": 0}, "n_images must be at least 1, got 0"),
    "size": ({"size": 7}, "size must be at least 8, got 7"),
    "seed below 0": ({"seed": -1}, "seed .* from 0 .* got -1"),
    "seed above": ({"seed": 2**32}, "got 4294967296"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        draw_strokes(**{"n_classes": 1, "n_images": 1, **options})


def test_load():
    told = []
    loaded = data.load("strokes", seed=3, image_size=8, progress=lambda *counts: told.append(counts))
    assert told[-1] == (400, 400)
    assert {part: len(bank) for part, bank in loaded.items()} == {"train": 300, "test": 100}
    alphabets = [{name.split("/")[0] for name in bank.class_names} for bank in loaded.values()]
    assert [len(a) for a in alphabets] == [15, 5]
    assert not alphabets[0] & alphabets[1]
    np.testing.assert_array_equal(loaded["train"][0], draw_strokes(1, seed=3, size=8)[0])

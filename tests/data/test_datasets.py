from __future__ import annotations

import numpy as np
import pytest

from maml_fast import data
from maml_fast.data import make_noise

pytestmark = pytest.mark.backendless


def test_noise_is_what_the_tutorial_makes():
    bank = make_noise(7, 4, (1, 5, 5), seed=3)
    before = np.random.get_state()  # noqa: NPY002 - the tutorial's generator is what we compare with
    try:
        np.random.seed(3)  # noqa: NPY002
        expected = np.random.randint(0, 256, size=(7, 4, 1, 5, 5), dtype=np.uint8)  # noqa: NPY002
    finally:
        np.random.set_state(before)  # noqa: NPY002
    np.testing.assert_array_equal(np.stack(list(bank)), expected)


def test_load_random():
    loaded = data.load("random", image_size=3)
    assert {part: (len(bank), bank.image_shape) for part, bank in loaded.items()} == {
        "train": (1200, (1, 3, 3)),
        "test": (423, (1, 3, 3)),
    }
    assert (loaded["train"].counts == 20).all()
    assert loaded.split.name == "first-1200"
    assert (data.load("random", image_size=3, seed=1)["train"][0] != loaded["train"][0]).any()


BAD_NOISE = {
    "classes": ({"n_classes": 0}, "must be at least 1, got"),
    "shape": ({"image_shape": (28, 28)}, r"image_shape must have 3 entries, got \(28, 28\)"),
    "seed": ({"seed": -1}, "seed .* got -1"),
}


@pytest.mark.parametrize(("options", "message"), BAD_NOISE.values(), ids=BAD_NOISE)
def test_bad_noise(options, message):
    with pytest.raises(ValueError, match=message):
        make_noise(**options)


BAD_LOADS = {
    "unknown": ("mnist", {}, "no data set 'mnist'; there are strokes, glyphs, omniglot, folder, random"),
    "omniglot without root": ("omniglot", {}, r"'omniglot' needs root \(--root DIR\): the folder of images_background"),
    "folder without root": ("folder", {}, r"'folder' needs root \(--root DIR\)"),
    "strokes with root": ("strokes", {"root": "x"}, "'strokes' takes no root, got root='x'"),
    "strokes with split": ("strokes", {"split": "vinyals"}, "takes no split"),
    "random with channels": ("random", {"channels": "RGB"}, "takes no channels"),
    "omniglot with seed": ("omniglot", {"root": "x", "seed": 0}, "takes no seed, got seed='0'"),
    "omniglot with a split nobody knows": (
        "omniglot",
        {"root": "x", "split": "lake"},
        "split must be tutorial, vinyals, finn or a folder of split files; got 'lake'",
    ),
    "image size 0": ("random", {"image_size": 0}, "image_size must be from 1 to 4096, got 0"),
    "seed too large": ("strokes", {"seed": 2**32}, "seed"),
    "folder with a bad seed": ("folder", {"root": ".", "seed": -1}, "seed .* got -1"),
    "folder with seed and split": ("folder", {"root": ".", "seed": 1, "split": "x"}, "give split or seed, not both"),
}


@pytest.mark.parametrize(("name", "options", "message"), BAD_LOADS.values(), ids=BAD_LOADS)
def test_bad_load(name, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        data.load(name, **options)


@pytest.mark.parametrize("name", ["omniglot", "folder"])
def test_missing_root(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        data.load(name, tmp_path / "missing")


def test_made_data_sets_have_train_and_test():
    for name in ("strokes", "random"):
        loaded = data.load(name, image_size=8)
        assert {"train", "test"} <= set(loaded)
        assert not set(loaded["train"].class_names) & set(loaded["test"].class_names)

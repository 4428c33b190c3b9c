"""The splits of Omniglot, and the data set as it is loaded."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_omniglot import as_the_tutorial_sees

from maml_fast import data
from maml_fast.data import ImageBank, prepare_omniglot
from maml_fast.data._omniglot_layout import OMNIGLOT, finn_split, tutorial_split, vinyals_split

pytestmark = [pytest.mark.usefixtures("cache_folder"), pytest.mark.backendless]


def test_splits():
    names = OMNIGLOT.class_names
    assert len(names) == len(set(names)) == 1623
    assert names[0] == "Alphabet_of_the_Magi/character01"
    assert names[1199:1201] == ("Gurmukhi/character41", "Gurmukhi/character42")
    tutorial, vinyals = tutorial_split(), vinyals_split()
    assert {part: len(c) for part, c in tutorial.classes.items()} == {"train": 1200, "test": 423}
    assert {part: len(c) for part, c in vinyals.classes.items()} == {"train": 1028, "val": 172, "test": 423}
    assert vinyals.classes["test"] == tutorial.classes["test"]
    assert set(vinyals.classes["train"]) | set(vinyals.classes["val"]) == set(tutorial.classes["train"])


def test_finns_split_mixes_the_alphabets():
    parts = finn_split().classes
    assert {part: len(names) for part, names in parts.items()} == {"train": 1100, "val": 100, "test": 423}
    assert set().union(*parts.values()) == set(OMNIGLOT.class_names)
    alphabets = [{name.split("/")[0] for name in names} for names in (parts["train"], parts["test"])]
    assert alphabets[0] == alphabets[1]
    assert finn_split().sha256 == "636a40a196ecaa89a1e5ef3e75a2aa04efc867080e4160a7b4902a005899276f"


@pytest.fixture
def random_omniglot(tmp_path) -> Path:
    """The tutorial's random stand-in for Omniglot, at 1 x 1 pixels."""
    pixels = np.random.RandomState(0).randint(0, 256, (1623, 20, 1, 1, 1), dtype=np.uint8)
    np.save(tmp_path / "omniglot_1.npy", pixels)
    return tmp_path


@pytest.mark.parametrize(
    ("split", "sizes"),
    [(None, [1200, 423]), ("tutorial", [1200, 423]), ("vinyals", [1028, 172, 423]), ("finn", [1100, 100, 423])],
)
def test_load(split, sizes, random_omniglot):
    loaded = data.load("omniglot", random_omniglot, split=split, image_size=1)
    assert [len(bank) for bank in loaded.values()] == sizes
    assert loaded.split.name == (split or "tutorial")
    pixels = np.load(random_omniglot / "omniglot_1.npy")
    first = OMNIGLOT.class_names.index(loaded["test"].class_names[0])
    assert (first == 1200) == (split != "finn")
    np.testing.assert_array_equal(loaded["test"][0], pixels[first])
    assert all(bank.images is loaded["train"].images for bank in loaded.values())
    assert loaded["test"].name == "omniglot/test"


def test_load_by_split_files(random_omniglot, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.txt").write_text("Greek/character02/rot000\nGreek/character02/rot090\nTengwar/character25\n")
    (folder / "test.txt").write_text("Greek/character01\n")
    loaded = data.load("omniglot", random_omniglot, split=folder, image_size=1)
    assert loaded["train"].class_names == ("Greek/character02", "Tengwar/character25")
    assert loaded.split.name == "mine"
    greek = OMNIGLOT.class_names.index("Greek/character01")
    np.testing.assert_array_equal(loaded["test"][0], np.load(tmp_path / "omniglot_1.npy")[greek])


@pytest.mark.omniglot
def test_real_omniglot_equals_the_tutorial(tmp_path):
    """In the order of the characters, and in the pixels of every drawing."""
    root = Path(os.environ["MAML_FAST_DATA"]).absolute() / "omniglot"
    prepared = np.load(prepare_omniglot(root, tmp_path / "omniglot.npy"))
    assert prepared.shape == (1623, 20, 1, 28, 28)

    names = []
    for archive in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(root / f"{archive}.zip") as zipped:
            drawings = sorted((name for name in zipped.namelist() if name.endswith(".png")), key=lambda n: n.split("/"))
            for first in range(0, len(drawings), 20):
                (character,) = {name.split("/", 1)[1].rpartition("/")[0] for name in drawings[first : first + 20]}
                number = len(names)
                names.append(character)
                for place in range(20):
                    expected = as_the_tutorial_sees(io.BytesIO(zipped.read(drawings[first + place])))
                    np.testing.assert_array_equal(prepared[number, place, 0], expected)
    assert list(OMNIGLOT.class_names) == names

    loaded = data.load("omniglot", tmp_path)
    assert isinstance(loaded["train"], ImageBank)
    np.testing.assert_array_equal(np.stack(list(loaded["test"])), prepared[1200:])

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maml_fast import data
from maml_fast.data import folder as folder_module
from maml_fast.data import read_folder

pytestmark = pytest.mark.backendless


def picture(seed: int, width: int = 20, height: int = 30, mode: str = "RGB") -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes of 3 and 1 pictures, of several formats, modes and sizes, made in no order."""
    root = tmp_path / "pets"
    for name in ("dogs", "cats"):
        (root / name).mkdir(parents=True)
    picture(3, 9, 9, "P").save(root / "cats" / "c.GIF")
    picture(1).save(root / "cats" / "a.png")
    picture(4, mode="L").save(root / "dogs" / "x.jpg", quality=95)
    picture(2, 100, 50, "CMYK").save(root / "cats" / "b.jpeg", quality=95)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("channels", ["L", "RGB"])
def test_read_folder(channels, root):
    told, lines = [], []
    bank = read_folder(root, 16, channels, progress=lambda *counts: told.append(counts), say=lines.append)
    assert bank.class_names == ("cats", "dogs")
    assert bank.counts.tolist() == [3, 1]
    assert bank.image_shape == (len(channels), 16, 16)
    assert bank.name == "pets"
    for i, path in enumerate(["cats/a.png", "cats/b.jpeg", "cats/c.GIF", "dogs/x.jpg"]):
        with Image.open(root / path) as image:
            expected = np.array(image.convert(channels).resize((16, 16), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(bank.images[i], expected.reshape(16, 16, -1).transpose(2, 0, 1))
    assert told == [(i, 4) for i in range(1, 5)]
    assert lines == []


def test_ink_on_transparent_paper_stays_visible(tmp_path):
    ink = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (0, 0, 5, 10))
    (tmp_path / "a").mkdir()
    ink.save(tmp_path / "a" / "1.png")
    image = read_folder(tmp_path, 10).images[0, 0]
    assert (image[:, :5] == 0).all()
    assert (image[:, 5:] == 255).all()


def test_what_is_no_picture_is_left_out_and_told(root):
    (root / "notes.txt").write_text("x")
    (root / "cats" / "list.csv").write_text("x")
    (root / "cats" / "folder.png").mkdir()
    (root / ".hidden").mkdir()
    (root / "cats" / ".DS_Store").write_text("x")
    lines = []
    bank = read_folder(root, say=lines.append)
    assert bank.counts.tolist() == [3, 1]
    assert len(lines) == 1
    assert lines[0].startswith(f"left out 3 entries of {root} that are not pictures, such as {root}/cats/")


def test_cache_is_mapped_and_noticed_when_stale(root, tmp_path):
    lines = []

    def read(size=16):
        return read_folder(root, size, cache=tmp_path / "kept", say=lines.append)

    first, again = read(), read()
    assert isinstance(first.images, np.memmap)
    assert first.file == again.file
    assert len(lines) == 1
    np.testing.assert_array_equal(first.images, read_folder(root, 16).images)
    assert again.counts.tolist() == [3, 1]

    assert read(20).image_shape == (1, 20, 20)
    assert read_folder(root, 16, "RGB", cache=tmp_path / "kept").image_shape == (3, 16, 16)
    picture(9).save(root / "cats" / "a.png")
    os.utime(root / "cats" / "a.png", ns=(1, 1))
    assert (read().images[0] != first.images[0]).any()
    (root / "cats" / "a.png").unlink()
    assert read().counts.tolist() == [2, 1]


def test_much_goes_to_the_cache_folder_by_itself(root, cache, monkeypatch):
    monkeypatch.setattr(folder_module, "_MAX_IN_MEMORY", 4 * 16 * 16 - 1)
    bank = read_folder(root, 16)
    assert bank.file.path.is_relative_to(cache)
    assert read_folder(root, 8).file is None


def test_a_picture_that_fails_leaves_no_cache(root, tmp_path):
    (root / "dogs" / "y.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"dogs/y\.png is not a picture"):
        read_folder(root, cache=tmp_path / "kept")
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".lock"}


def make_empty_class(root):
    (root / "mice").mkdir()


def make_class_of_other_files(root):
    (root / "mice").mkdir()
    (root / "mice" / "m.svg").write_text("x")


def make_class_of_folders(root):
    (root / "wild" / "wolves").mkdir(parents=True)
    picture(1).save(root / "wild" / "wolves" / "1.png")


def make_cut_picture(root):
    path = root / "dogs" / "x.jpg"
    path.write_bytes(path.read_bytes()[:-300])


def make_deep_picture(root):
    Image.fromarray(np.zeros((5, 5), np.float32)).save(root / "dogs" / "y.tif")


def make_flat(root):
    for path in list(root.rglob("*.*")):
        path.rename(root / path.name)
    (root / "cats").rmdir()
    (root / "dogs").rmdir()


BAD = {
    "empty class": (make_empty_class, "class folder .*mice holds no pictures; remove it"),
    "class of other files": (make_class_of_other_files, r"mice holds no pictures .*\.png.*, only m\.svg"),
    "class of folders": (
        make_class_of_folders,
        "wild holds no pictures but folders, such as wolves; is .*wild the root",
    ),
    "empty picture": (lambda root: (root / "dogs" / "y.png").touch(), r"dogs/y\.png is not a picture"),
    "cut picture": (make_cut_picture, r"dogs/x\.jpg cannot be used: .*truncated"),
    "picture of floats": (make_deep_picture, r"dogs/y\.tif cannot be used: has pixels of kind 'F'.*with 8 bits"),
    "no class folders": (make_flat, "holds no class folders; put the pictures of every class into a folder"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_folder(make, message, root):
    make(root)
    with pytest.raises(ValueError, match=message):
        read_folder(root)


def test_bad_options(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing"):
        read_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match="image_size must be from 1 to 4096, got 0"):
        read_folder(root, 0)
    with pytest.raises(ValueError, match="channels must be 'L' or 'RGB', got 'RGBA'"):
        read_folder(root, channels="RGBA")


@pytest.fixture
def many(tmp_path) -> Path:
    root = tmp_path / "many"
    for i in range(10):
        (root / f"c{i}").mkdir(parents=True)
        picture(i).save(root / f"c{i}" / "1.png")
    return root


def test_load_splits_by_chance(many):
    loaded = data.load("folder", many, image_size=8, channels="RGB")
    assert {part: len(bank) for part, bank in loaded.items()} == {"train": 8, "test": 2}
    assert loaded["train"].image_shape == (3, 8, 8)
    assert data.load("folder", many, seed=0).split == loaded.split
    assert len({data.load("folder", many, image_size=1, seed=seed).split.sha256 for seed in range(5)}) > 1


def test_load_splits_by_files(many, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.txt").write_text("c3\nc1\n")
    (tmp_path / "mine" / "test.txt").write_text("c2\n")
    loaded = data.load("folder", many, split=tmp_path / "mine")
    assert loaded["train"].class_names == ("c3", "c1")
    assert loaded.split.name == "mine"


def test_load_takes_the_folders_train_and_test(many, tmp_path):
    parted = tmp_path / "parted"
    for part, classes in {"train": ["c0", "c1", "c2"], "val": ["c3"], "test": ["c4", "c5"]}.items():
        (parted / part).mkdir(parents=True)
        for name in classes:
            (many / name).rename(parted / part / name)
    loaded = data.load("folder", parted, image_size=8)
    assert {part: bank.class_names for part, bank in loaded.items()} == loaded.split.classes
    assert list(loaded) == ["train", "val", "test"]
    assert loaded.name == "parted"
    for option in ({"seed": 0}, {"split": "x"}):
        with pytest.raises(ValueError, match="split by its folders train and test; give neither"):
            data.load("folder", parted, **option)
    (parted / "test" / "c0").mkdir()
    picture(0).save(parted / "test" / "c0" / "1.png")
    with pytest.raises(ValueError, match="class 'c0' of split 'folders' is in train and again in test"):
        data.load("folder", parted)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("training", "valid", "testing"),
        ("Train", "validation", "TEST"),
        ("train", "dev", "test"),
    ],
)
def test_parts_have_any_of_their_usual_names(train, val, test, tmp_path):
    for part, name in ((train, "a"), (val, "b"), (test, "c")):
        (tmp_path / part / name).mkdir(parents=True)
        picture(1).save(tmp_path / part / name / "0.png")
    loaded = data.load("folder", tmp_path, image_size=8, say=pytest.fail)
    assert {part: bank.class_names for part, bank in loaded.items()} == {"train": ("a",), "val": ("b",), "test": ("c",)}


def test_what_lies_beside_the_parts_is_named(tmp_path):
    for part in ("train", "test", "unlabeled"):
        (tmp_path / part / "a").mkdir(parents=True)
        picture(1).save(tmp_path / part / "a" / "0.png")
    lines = []
    with pytest.raises(ValueError, match="'a'"):  # a class in two parts
        data.load("folder", tmp_path, image_size=8, say=lines.append)
    (tmp_path / "test" / "a").rename(tmp_path / "test" / "b")
    lines.clear()
    data.load("folder", tmp_path, image_size=8, say=lines.append)
    assert lines == [f"left out 1 entries of {tmp_path} beside train, test, such as unlabeled"]


def test_a_part_under_two_names_is_an_error(tmp_path):
    for part in ("train", "val", "validation", "test"):
        (tmp_path / part / part).mkdir(parents=True)
        picture(1).save(tmp_path / part / part / "0.png")
    with pytest.raises(ValueError, match="holds val and validation, which both mean val; remove one"):
        data.load("folder", tmp_path, image_size=8)

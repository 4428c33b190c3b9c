from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_fast.data import ImageBank, Split, read_split
from maml_fast.data._omniglot_layout import vinyals_split
from maml_fast.data._splits import PARTS, first_and_rest, shuffled

pytestmark = pytest.mark.backendless

NAMES = [f"c{i}" for i in range(10)]


def bank() -> ImageBank:
    return ImageBank.from_array(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1, 1), NAMES, "ten")


def test_apply_shares_the_images_and_keeps_the_order():
    whole = bank()
    parts = Split("mine", {"train": ("c7", "c1"), "test": ("c0",)}).apply(whole)
    assert [images.item() for images in parts["train"]] == [7, 1]
    assert parts["train"].images is whole.images
    assert parts["test"].name == "ten/test"


def test_digest_says_what_decides_the_episodes():
    split = Split("mine", {"train": ("c7", "c1"), "test": ("c0",)})
    same = Split("another name", {"test": ("c0",), "train": ("c7", "c1")})
    assert split.sha256 == same.sha256
    others = [
        {"train": ("c1", "c7"), "test": ("c0",)},
        {"train": ("c7", "c1"), "test": ("c2",)},
        {"train": ("c7",), "test": ("c1", "c0")},
        {"train": ("c7", "c1"), "val": ("c0",), "test": ("c3",)},
        {"train": ('c7", "c1',), "test": ("c0",)},
    ]
    assert len({split.sha256, *(Split("x", parts).sha256 for parts in others)}) == 6


def test_describe_is_plain():
    split = first_and_rest("first-7", NAMES, 7)
    described = json.loads(json.dumps(split.describe()))
    assert described == {"name": "first-7", "train": 7, "test": 3, "sha256": split.sha256}
    assert str(split) == f"first-7: 7 train / 3 test classes, sha256 {split.sha256[:12]}"


BAD_SPLITS = {
    "no test": ({"train": ("a",)}, "needs the parts train and test"),
    "unknown part": ({"train": ("a",), "test": ("b",), "dev": ("c",)}, "got .*'dev'"),
    "empty part": ({"train": (), "test": ("b",)}, "part 'train' of split 'bad' has no classes"),
    "shared class": ({"train": ("a", "b"), "test": ("b",)}, "class 'b' .* is in train and again in test"),
    "class twice": ({"train": ("a", "a"), "test": ("b",)}, "class 'a' .* is in train and again in train"),
}


@pytest.mark.parametrize(("classes", "message"), BAD_SPLITS.values(), ids=BAD_SPLITS)
def test_bad_split(classes, message):
    with pytest.raises(ValueError, match=message):
        Split("bad", classes)


def test_classes_that_the_bank_has_not():
    split = Split("mine", {"train": ("c1",), "test": ("c0", "x", "y")})
    with pytest.raises(ValueError, match=r"puts class 'x' into test, but ten has no such class \(1 other"):
        split.apply(bank())


@pytest.mark.parametrize("n_train", [0, 10])
def test_first_and_rest_needs_both(n_train):
    with pytest.raises(ValueError, match="has no classes"):
        first_and_rest("x", NAMES, n_train)


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_shuffled_parts_the_classes_and_keeps_their_order(n_classes, seed):
    names = [f"{i:02d}" for i in range(n_classes)]
    split = shuffled(names, seed)
    assert sorted(split.classes["train"] + split.classes["test"]) == names
    assert all(list(part) == sorted(part) for part in split.classes.values())
    assert len(split.classes["test"]) == max(round(n_classes / 5), 1)
    assert split.sha256 == shuffled(names, seed).sha256


def test_shuffled_depends_on_the_seed():
    assert len({shuffled(NAMES, seed).sha256 for seed in range(20)}) > 10
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        shuffled(["a"])


def write_text_files(folder, classes):
    for part, names in classes.items():
        lines = [f"{name}/rot{turn:03d}\n" for name in names for turn in (0, 90, 180, 270)]
        (folder / f"{part}.txt").write_text("".join(lines))


def write_json_files(folder, classes):
    for part, names in classes.items():
        alphabets: dict[str, list[str]] = {}
        for name in names:
            alphabet, character = name.split("/")
            alphabets.setdefault(alphabet, []).append(character)
        (folder / f"{part}.json").write_text(json.dumps({"background": alphabets, "evaluation": {}}))


@pytest.mark.parametrize("write", [write_text_files, write_json_files])
def test_vinyals_files(write, tmp_path):
    folder = tmp_path / "vinyals"
    folder.mkdir()
    expected = vinyals_split()
    write(folder, expected.classes)
    split = read_split(folder)
    assert split.name == "vinyals"
    assert {part: set(names) for part, names in split.classes.items()} == {
        part: set(expected.classes[part]) for part in PARTS
    }


def test_text_files_without_turns_and_without_val(tmp_path):
    (tmp_path / "train.txt").write_text("a/1\n\n  b/2  \n")
    (tmp_path / "test.txt").write_text("c/3")
    assert dict(read_split(tmp_path).classes) == {"train": ("a/1", "b/2"), "test": ("c/3",)}


BAD_FILES = {
    "no folder": (None, FileNotFoundError, "there is no folder .*split"),
    "no test": ({"train.txt": b"a"}, FileNotFoundError, r"neither test\.txt nor test\.json"),
    "empty": ({"train.txt": b"\n", "test.txt": b"a"}, ValueError, "part 'train' .* has no classes"),
    "binary": ({"train.txt": b"\xff\xfe\x00", "test.txt": b"a"}, ValueError, r"train\.txt is not a text file"),
    "json list": ({"train.json": b"[1]", "test.txt": b"a"}, ValueError, r"train\.json is not of the form"),
    "json number": ({"train.json": b'{"a": 1}', "test.txt": b"a"}, ValueError, r"train\.json is not of the form"),
    "no json": ({"train.json": b"{", "test.txt": b"a"}, ValueError, r"train\.json is not of the form"),
    "shared": (
        {"train.txt": b"a/1/rot000", "test.txt": b"a/1/rot090"},
        ValueError,
        "'a/1' .* in train and again in test",
    ),
}


@pytest.mark.parametrize(("files", "error", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(files, error, message, tmp_path):
    folder = tmp_path / "split"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
    with pytest.raises(error, match=message):
        read_split(folder)

"""Data sets that come parted: every layout gives the same banks, and damage is named."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from forks import killed
from PIL import Image
from tiny_color import (
    tiny_parts,
    write_arrays,
    write_arrays_channels_first,
    write_caches,
    write_folders,
    write_lists,
)

from maml_fast import data
from maml_fast.cli import main
from maml_fast.data import EpisodeSampler
from maml_fast.train import TrainConfig, resume, train
from maml_fast.train._record import RunFolder

pytestmark = pytest.mark.backendless

IN_84 = ("mini-imagenet", "tiered-imagenet", "cub")
IN_32 = ("cifar-fs", "fc100")
LAYOUTS = [
    *(("mini-imagenet", write, name) for name, write in {"caches": write_caches, "lists": write_lists}.items()),
    *((name, write_folders, "folders") for name in IN_84 + IN_32),
    *(
        (name, write, "arrays")
        for name in (*IN_84[1:], *IN_32)
        for write in (write_arrays, write_arrays_channels_first)
    ),
]


@pytest.fixture(autouse=True)
def cache(cache_folder) -> Path:
    return cache_folder


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def load(name, root, **options):
    return data.load(name, root, say=lambda line: None, **options)


@pytest.mark.parametrize(("name", "write", "split"), LAYOUTS)
def test_every_layout_gives_the_same_banks(name, write, split, root, cache):
    parts = tiny_parts(32 if name in IN_32 else 84)
    write(root, parts)
    loaded = load(name, root)
    assert (loaded.name, list(loaded), loaded.split.name) == (name, ["train", "val", "test"], split)
    for part, bank in loaded.items():
        names = tuple(f"{part}/{i}" for i in range(len(parts[part]))) if split == "arrays" else tuple(parts[part])
        assert bank.name == f"{name}/{part}"
        assert bank.class_names == loaded.split.classes[part] == names
        assert isinstance(bank.images, np.memmap)
        assert bank.file.path.is_relative_to(cache)
        for i, images in enumerate(parts[part].values()):
            np.testing.assert_array_equal(bank[i], images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("write", [write_caches, write_lists, write_folders])
def test_other_sizes_and_gray(write, root):
    parts = tiny_parts()
    write(root, parts)
    assert load("mini-imagenet", root, image_size=20)["val"].image_shape == (3, 20, 20)
    bank = load("mini-imagenet", root, image_size=20, channels="L")["test"]
    first = Image.fromarray(next(iter(parts["test"].values()))[0])
    expected = np.asarray(first.convert("L").resize((20, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(bank.images[0, 0], expected)


def test_gray_arrays(root):
    images = np.random.RandomState(0).randint(0, 256, (6, 32, 32, 1), dtype=np.uint8)
    for part in ("train", "test"):
        np.savez(root / f"{part}.npz", images=images, labels=np.array([3, 3, -1, 7, 7, 7]))
    bank = load("fc100", root, channels="L")["train"]
    assert bank.class_names == ("train/-1", "train/3", "train/7")
    np.testing.assert_array_equal(bank[1], images[:2].transpose(0, 3, 1, 2))
    assert load("fc100", root)["train"].image_shape == (3, 32, 32)


def test_val_may_be_called_validation_or_be_missing(root):
    write_caches(root, tiny_parts(8))
    whole = load("mini-imagenet", root, image_size=8)
    val = root / "mini-imagenet-cache-val.pkl"
    val.rename(root / "mini-imagenet-cache-validation.pkl")
    renamed = load("mini-imagenet", root, image_size=8)
    assert renamed.split == whole.split
    (root / "mini-imagenet-cache-validation.pkl").unlink()
    assert list(load("mini-imagenet", root, image_size=8)) == ["train", "test"]


def test_sources_are_read_once_and_again_when_they_change(root, monkeypatch):
    write_caches(root, tiny_parts(8))
    lines, told = [], []

    def load_again():
        return data.load("mini-imagenet", root, image_size=8, progress=lambda *c: told.append(c), say=lines.append)

    first = load_again()
    assert [line.split(" pictures of ")[0] for line in lines] == [f"converting the {n}" for n in (16, 6, 10)]
    assert told == [(i, n) for n in (16, 6, 10) for i in range(1, n + 1)]
    with monkeypatch.context() as patched:
        patched.setattr("maml_fast.data._image_arrays.read_pickle", None)  # must not be called
        again = load_again()
    assert len(lines) == 3
    assert [bank.file for bank in again.values()] == [bank.file for bank in first.values()]
    assert again.split == first.split

    parts = tiny_parts(8)
    parts["test"]["ntest00"][0] = 255 - parts["test"]["ntest00"][0]
    write_caches(root, {"test": parts["test"]})
    changed = load_again()
    assert len(lines) == 4
    assert (changed["test"].images[0] != first["test"].images[0]).any()


def test_what_is_damaged_in_the_cache_is_made_again(root, cache):
    write_caches(root, tiny_parts(8))
    first = load("mini-imagenet", root, image_size=8)["test"]
    listing, pixels = (next(cache.glob(f"banks/mini-imagenet-test-*.{suffix}")) for suffix in ("json", "npy"))
    whole = pixels.read_bytes()
    damages = [(listing, content) for content in (b'{"a": 1}', b"[]", b"{", b"")]
    damages += [(pixels, whole[:-1]), (pixels, whole[:200] + b"\0" * 100 + whole[300:])]
    for damaged, content in damages:
        damaged.write_bytes(content)
        lines = []
        again = data.load("mini-imagenet", root, image_size=8, say=lines.append)["test"]
        assert lines[0] == f"{pixels} is damaged, or another user could have written it: it is made again"
        assert again.class_names == first.class_names
        assert pixels.read_bytes() == whole


def load_until_killed(root):
    def progress(done, total):
        if done == 12:
            os.kill(os.getpid(), signal.SIGKILL)

    data.load("mini-imagenet", root, image_size=8, progress=progress)


def test_a_killed_conversion_leaves_nothing_that_is_used(root, cache, tmp_path):
    parts = tiny_parts(8)
    write_caches(root, parts)
    assert killed(lambda: load_until_killed(root), tmp_path / "told")
    assert list(cache.glob("banks/*.npy")) == []
    told = []
    loaded = data.load("mini-imagenet", root, image_size=8, progress=lambda *c: told.append(c), say=lambda line: None)
    assert told[0] == (1, 16)
    expected = np.concatenate(list(parts["train"].values())).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(loaded["train"].images, expected)
    assert {path.suffix for path in cache.glob("banks/*")} == {".json", ".lock", ".npy", ".sha256"}


def test_a_second_process_waits_for_the_first_and_maps_what_it_made(root, cache):
    write_caches(root, tiny_parts(8))
    begun, may_end, lines = threading.Event(), threading.Event(), []

    def slow(done, total):
        begun.set()
        assert may_end.wait(10)

    def say(line):
        lines.append(line)
        may_end.set()

    def progress(done, total):
        raise AssertionError("converted twice")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(load, "mini-imagenet", root, image_size=8, progress=slow)
        assert begun.wait(10)
        second = data.load("mini-imagenet", root, image_size=8, progress=progress, say=say)
        first = first.result()
    assert [line.split(" that makes ")[0] for line in lines] == ["waiting for another process"] * len(lines)
    assert second["train"].file == first["train"].file


class Command:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_cache_that_is_a_trap_is_refused_and_runs_nothing(root, cache):
    write_caches(root, tiny_parts(8))
    trap = {"image_data": Command(f"touch '{root}/witness'"), "class_dict": {}}
    (root / "mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps(trap))
    with pytest.raises(ValueError, match=r"cache-test\.pkl .*asks to run \w+\.system.*nothing was run"):
        load("mini-imagenet", root, image_size=8)
    assert not (root / "witness").exists()
    assert list(cache.glob("banks/mini-imagenet-test*")) == []


IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
BAD_CACHES = {
    "no dict": ([1], "it holds list"),
    "other keys": ({"images": IMAGES, "labels": [0]}, "it holds a dict of images, labels; a cache of mini-ImageNet is"),
    "no classes": ({"image_data": IMAGES, "class_dict": {}}, "there are no classes"),
    "classes as a list": ({"image_data": IMAGES, "class_dict": [0, 1]}, "class_dict is not a dict of class names"),
    "numbered classes": ({"image_data": IMAGES, "class_dict": {0: [1]}}, "class_dict is not a dict of class names"),
    "empty class": ({"image_data": IMAGES, "class_dict": {"a": []}}, "class 'a' has no list of image numbers"),
    "class of names": ({"image_data": IMAGES, "class_dict": {"a": ["x"]}}, "class 'a' has no list of image numbers"),
    "image too many": ({"image_data": IMAGES, "class_dict": {"a": [0, 4]}}, "class 'a' has image 4, but there are 4"),
    "image -1": ({"image_data": IMAGES, "class_dict": {"a": [0, -1]}}, "class 'a' has image -1"),
    "image in two classes": ({"image_data": IMAGES, "class_dict": {"a": [0, 1], "b": [1]}}, "image 1 is in more"),
    "int64": ({"image_data": IMAGES.astype(int), "class_dict": {"a": [0]}}, "image_data is int64 of shape"),
    "flat": ({"image_data": IMAGES.reshape(4, -1), "class_dict": {"a": [0]}}, r"image_data is uint8 of shape \(4, 192"),
    "no pixels": ({"image_data": [1, 2], "class_dict": {"a": [0]}}, "image_data is list"),
    "2 channels": ({"image_data": IMAGES[..., :2], "class_dict": {"a": [0]}}, "without 1 or 3 channels"),
}


@pytest.mark.parametrize(("content", "message"), BAD_CACHES.values(), ids=BAD_CACHES)
def test_bad_cache(content, message, root):
    write_caches(root, tiny_parts(8))
    (root / "mini-imagenet-cache-train.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"mini-imagenet-cache-train\.pkl: .*{message}"):
        load("mini-imagenet", root)


def test_images_of_no_class_are_left_out_and_told(root):
    write_caches(root, tiny_parts(8))
    content = pickle.dumps({"image_data": IMAGES, "class_dict": {"a": [2], "b": [0]}})
    (root / "mini-imagenet-cache-train.pkl").write_bytes(content)
    lines = []
    assert data.load("mini-imagenet", root, say=lines.append)["train"].counts.tolist() == [1, 1]
    assert lines[0] == "left out 2 images that are in no class"


def test_a_cache_cut_short(root):
    write_caches(root, tiny_parts(8))
    path = root / "mini-imagenet-cache-val.pkl"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cache-val\.pkl cannot be read as a pickle: "):
        load("mini-imagenet", root)


LABELS = np.array([0, 0, 1, 1])
BAD_ARRAYS = {
    "no labels": ({"images": IMAGES}, "it has no array 'labels'; it needs images, uint8"),
    "other names": ({"x": IMAGES, "y": LABELS}, "it has no array 'images'"),
    "float labels": ({"images": IMAGES, "labels": LABELS / 1}, r"labels are float64 of shape \(4,\), for 4 images"),
    "text labels": ({"images": IMAGES, "labels": np.array(list("aabb"))}, "labels are <U1"),
    "too few labels": ({"images": IMAGES, "labels": LABELS[:3]}, r"labels are int64 of shape \(3,\), for 4 images"),
    "one-hot labels": ({"images": IMAGES, "labels": np.eye(4, dtype=int)}, r"labels are int64 of shape \(4, 4\)"),
    "float pixels": ({"images": IMAGES / 255, "labels": LABELS}, "images is float64"),
    "no channels": ({"images": IMAGES[..., 0], "labels": LABELS}, r"images is uint8 of shape \(4, 8, 8\)"),
    "4 channels": ({"images": np.zeros((4, 8, 8, 4), np.uint8), "labels": LABELS}, "without 1 or 3 channels"),
    "nothing": ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"images is uint8 of shape \(0, "),
    "objects": ({"images": IMAGES, "labels": LABELS.astype(object)}, "cannot be read as a .npz: Object arrays cannot"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays(arrays, message, root, cache):
    write_arrays(root, tiny_parts(8))
    np.savez(root / "test.npz", **arrays)
    with pytest.raises(ValueError, match=rf"test\.npz.*{message}"):
        load("fc100", root)
    assert list(cache.glob("banks/fc100-test*")) == []


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps(Command("touch witness"))])
def test_no_npz(content, root, monkeypatch):
    monkeypatch.chdir(root)
    write_arrays(root, tiny_parts(8))
    (root / "val.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"val\.npz cannot be read as a \.npz"):
        load("cifar-fs", root)
    assert not (root / "witness").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_npz(damage, root):
    write_arrays(root, tiny_parts(8))
    path = root / "train.npz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-200]
    else:
        content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.npz cannot be read as a \.npz"):
        load("cub", root)


BAD_LISTS = {
    "other columns": ("name,label\na.png,a\n", "must name the columns filename,label; it names .'name', 'label'"),
    "no header": ("ntrain0000000.png,a\n", "must name the columns"),
    "empty": ("", "must name the columns filename,label; it names \\[\\]"),
    "no rows": ("filename,label\n", "it names no pictures"),
    "no label": ("filename,label\nntrain0000000.png,\n", "line 2 lacks a filename or a label"),
    "short row": ("filename,label\nntrain0000000.png\n", "line 2 lacks a filename or a label"),
    "twice": ("filename,label\nx.png,a\nx.png,b\n", r"line 3 names x\.png a second time"),
    "open quote": ('filename,label\n"x.png,a\n', "train.csv cannot be used"),
    "outside": ("filename,label\n../../secret.png,a\n", r"line 2 names \.\./\.\./secret\.png, which is not inside"),
    "absolute": ("filename,label\n/etc/secret.png,a\n", "line 2 names /etc/secret.png, which is not inside"),
    "no text": (b"filename,label\n\xff\xfe.png,a\n", "train.csv cannot be used: .*decode"),
}


@pytest.mark.parametrize(("content", "message"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_bad_list(content, message, root):
    write_lists(root, tiny_parts(8))
    (root / "train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"train\.csv cannot be used: .*{message}|{message}"):
        load("mini-imagenet", root)


def test_a_list_that_names_a_missing_picture(root):
    write_lists(root, tiny_parts(8))
    (root / "images" / "ntest0000001.png").unlink()
    (root / "images" / "ntest0100000.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"test\.csv names 2 pictures that are not there, such as .*images/ntest0"
    ):
        load("mini-imagenet", root, image_size=8)


def test_a_list_with_more_columns_and_a_byte_order_mark(root):
    write_lists(root, tiny_parts(8))
    before = load("mini-imagenet", root, image_size=8)["val"]
    lines = (root / "val.csv").read_text().splitlines()
    text = "\n".join(f"{i},{line}" for i, line in enumerate(lines)).replace("0,filename", "\ufefforder,filename")
    (root / "val.csv").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(load("mini-imagenet", root, image_size=8)["val"].images, before.images)


def test_blanks_and_line_ends_of_a_list_mean_nothing(root):
    write_lists(root, tiny_parts(8))
    before = load("mini-imagenet", root, image_size=8)["val"]
    text = (root / "val.csv").read_text()
    (root / "val.csv").write_bytes(text.replace(",", " , ").replace("\n", " \r\n").encode())
    after = load("mini-imagenet", root, image_size=8)["val"]
    assert after.class_names == before.class_names
    np.testing.assert_array_equal(after.images, before.images)


@pytest.mark.parametrize("spelling", ["valid", "validation", "dev", "Val"])
def test_validation_has_many_names(spelling, root):
    write_folders(root, tiny_parts(8))
    before = load("cub", root, image_size=8)["val"]
    (root / "val").rename(root / "moved")  # first, where case does not count
    (root / "moved").rename(root / spelling)
    assert load("cub", root, image_size=8)["val"].class_names == before.class_names


def test_a_small_npz_that_asks_for_gigabytes(root):
    write_arrays(root, tiny_parts(8))
    with zipfile.ZipFile(root / "train.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(50_000_000))
    with pytest.raises(ValueError, match=r"train\.npz cannot be read as a \.npz: it unpacks to 50,000,000 bytes"):
        load("cub", root)


def test_a_damaged_picture_is_named_and_leaves_no_bank(root, cache):
    write_folders(root, tiny_parts(8))
    (root / "train" / "ntrain01" / "001.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"ntrain01/001\.png is not a picture"):
        load("cub", root)
    assert {path.suffix for path in cache.glob("banks/*")} == {".lock"}


def test_the_same_class_in_two_parts(root):
    parts = tiny_parts(8)
    write_folders(root, {**parts, "test": {**parts["test"], "ntrain02": parts["train"]["ntrain02"]}})
    with pytest.raises(ValueError, match="class 'ntrain02' of split 'folders' is in train and again in test"):
        load("tiered-imagenet", root)


def test_what_was_looked_for_is_told(root):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere; cub is a folder that holds {train,val"):
        load("cub", root / "nowhere")
    with pytest.raises(FileNotFoundError) as told:
        load("mini-imagenet", root)
    for text in ("mini-imagenet-cache-{train,val,test}.pkl", "{train,val,test}.csv and images/", "class folders"):
        assert text in str(told.value)
    assert str(told.value).endswith("found none of them")
    (root / "mini-imagenet-cache-train.pkl").touch()
    (root / "val").mkdir()
    with pytest.raises(FileNotFoundError, match=r"found only mini-imagenet-cache-train\.pkl, val$"):
        load("mini-imagenet", root)


def test_bad_options(root):
    write_folders(root, tiny_parts(8))
    for option, message in {
        "split": "'cub' takes no split",
        "seed": "'cub' takes no seed",
    }.items():
        with pytest.raises(ValueError, match=message):
            load("cub", root, **{option: 1 if option == "seed" else "x"})
    with pytest.raises(ValueError, match="image_size must be from 1 to 4096, got 0"):
        load("cub", root, image_size=0)
    with pytest.raises(ValueError, match="channels must be 'L' or 'RGB', got 'CMYK'"):
        load("cub", root, channels="CMYK")
    with pytest.raises(ValueError, match=r"'cub' needs root \(--root DIR\): a folder that holds {train,val,test}"):
        data.load("cub")


def test_a_class_with_too_few_images_is_named(root):
    write_folders(root, tiny_parts(8))
    bank = load("cub", root)["train"]
    with pytest.raises(ValueError, match=r"ntrain01.*cub/train.*k_shot \+ k_query is 1 \+ 3 = 4"):
        EpisodeSampler(bank, 3, 1, 3, 2, 0)


SMALL = {
    "image_size": 16,
    "hidden": 4,
    "n_way": 2,
    "k_query": 2,
    "iterations": 2,
    "eval_every": 1,
    "eval_episodes": 2,
    "test_episodes": 2,
    "threads": 1,
}


def test_defaults_are_finns_on_mini_imagenet():
    arguments = TrainConfig.for_dataset("mini-imagenet").arguments()
    expected = {
        "image_size": 84,
        "channels": "RGB",
        "hidden": 32,
        "n_way": 5,
        "k_query": 15,
        "meta_batch_size": 4,
        "inner_lr": 0.05,
        "inner_steps": 5,
        "eval_inner_steps": 10,
        "meta_lr": 1e-3,
        "scale": "unit",
        "rotate": False,
    }
    assert {name: arguments[name] for name in expected} == expected
    for name in (*IN_84, *IN_32):
        assert TrainConfig.for_dataset(name).image_size == (32 if name in IN_32 else 84)


@pytest.mark.usefixtures("plain_pictures")
@pytest.mark.parametrize(
    ("name", "write"), [("mini-imagenet", write_caches), *((name, write_folders) for name in (*IN_84[1:], *IN_32))]
)
def test_the_command_line_trains_and_records_the_split(name, write, root, tmp_path):
    write(root, tiny_parts(16))
    options = [text for key, value in SMALL.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    run = tmp_path / "run"
    result = CliRunner().invoke(main, ["train", "--dataset", name, "--root", str(root), "--out", str(run), *options])
    assert result.exit_code == 0, result.output
    record = RunFolder(run).read_config()
    split = load(name, root, image_size=16).split
    assert record["data"]["split"] == {"name": split.name, "train": 4, "val": 2, "test": 3, "sha256": split.sha256}
    assert record["data"]["image_shape"] == [3, 16, 16]
    assert record["arguments"]["inner_lr"] == 0.05
    assert split.sha256[:12] in result.stdout


@pytest.mark.usefixtures("plain_pictures")
def test_a_run_goes_on_with_the_same_images_in_another_layout_and_not_with_others(root, tmp_path):
    parts = tiny_parts(16)
    for layout, write in {"caches": write_caches, "lists": write_lists}.items():
        (root / layout).mkdir()
        write(root / layout, parts)
    config = TrainConfig.for_dataset("mini-imagenet", root=str(root / "caches"), **SMALL)
    run = train(config, out=tmp_path / "run").path
    resume(run, iterations=3, root=str(root / "lists"))
    parts["train"]["ntrain00"] = 255 - parts["train"]["ntrain00"]
    (root / "others").mkdir()
    write_folders(root / "others", parts)
    with pytest.raises(ValueError, match="the data differ from those of"):
        resume(run, iterations=4, root=str(root / "others"))

"""Omniglot is prepared as the tutorial reads it, once, and read from there."""

from __future__ import annotations

import hashlib
import os
import signal
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler

import numpy as np
import pytest
from forks import killed
from tiny_omniglot import TINY, TINY_NAMES, png, tiny_files, write_folders, write_zips
from web_server import serving

from maml_fast.data import prepare_omniglot, read_omniglot
from maml_fast.data._omniglot_layout import Layout

pytestmark = [pytest.mark.usefixtures("cache_folder"), pytest.mark.backendless]


LAYOUTS = {
    "zips": lambda root, files: write_zips(root, files),
    "deflated zips": lambda root, files: write_zips(root, files, zipfile.ZIP_DEFLATED),
    "folders": write_folders,
    "zips in omniglot/": lambda root, files: write_zips(root / "omniglot", files),
    "torchvision's folders": lambda root, files: write_folders(root / "omniglot-py", files),
    "a clone's zips": lambda root, files: write_zips(root / "python", files),
    "folders in folders of their names": lambda root, files: write_folders(
        root, {f"{path.split('/')[0]}/{path}": content for path, content in files.items()}
    ),
    "litter": lambda root, files: write_zips(
        root,
        {
            **files,
            "images_background/.DS_Store": b"x",
            "images_background/Beta/character01/Thumbs.db": b"x",
            "images_evaluation/Gamma/._character01": b"x",
        },
    ),
}


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_prepare_equals_the_tutorial(write, tiny_pixels, tmp_path):
    root = tmp_path / "root"
    write(root, tiny_files())
    told, lines = [], []
    path = prepare_omniglot(root, layout=TINY, progress=lambda *counts: told.append(counts), say=lines.append)
    assert path == root / "omniglot.npy"
    array = np.load(path)
    assert array.shape == (5, 3, 1, 28, 28)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, tiny_pixels)
    assert told == [(i, 5) for i in range(1, 6)]
    assert len(lines) == 1
    assert f"wrote {path}: 5 characters x 3 drawings, in " in lines[0]


def test_a_zip_and_a_folder_side_by_side(tiny_pixels, tmp_path):
    write_zips(tmp_path, tiny_files())
    (tmp_path / "images_evaluation.zip").unlink()
    write_folders(tmp_path, {path: c for path, c in tiny_files().items() if path.startswith("images_evaluation/")})
    np.testing.assert_array_equal(np.load(prepare_omniglot(tmp_path, layout=TINY)), tiny_pixels)


def test_out_and_size(tmp_path):
    write_zips(tmp_path, tiny_files())
    (tmp_path / "elsewhere").mkdir()
    assert prepare_omniglot(tmp_path, tmp_path / "new" / "my.npy", layout=TINY) == tmp_path / "new" / "my.npy"
    path = prepare_omniglot(tmp_path, tmp_path / "elsewhere", size=20, layout=TINY)
    assert path == tmp_path / "elsewhere" / "omniglot_20.npy"
    assert np.load(path).shape == (5, 3, 1, 20, 20)
    with pytest.raises(ValueError, match=r"out must be a folder or end in .npy, got .*background.zip"):
        prepare_omniglot(tmp_path, tmp_path / "images_background.zip", layout=TINY)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        prepare_omniglot(tmp_path, size=0, layout=TINY)


def test_missing_archives_name_the_remedy(tmp_path):
    root = tmp_path / "root"
    for call in (prepare_omniglot, read_omniglot):
        with pytest.raises(
            FileNotFoundError, match=f"images_background.zip .* is in {root}.*maml-fast prepare omniglot"
        ):
            call(root, layout=TINY)
    write_zips(root, tiny_files())
    (root / "images_evaluation.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"images_evaluation.zip"):
        prepare_omniglot(root, layout=TINY)


def test_a_killed_prepare_is_not_mistaken_for_a_result(tiny_pixels, tmp_path):
    root = tmp_path / "root"
    write_zips(root, tiny_files())

    def progress(done, total):
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(lambda: prepare_omniglot(root, layout=TINY, progress=progress), tmp_path / "told")
    assert not list(root.glob("*.npy"))
    bank = read_omniglot(root, layout=TINY)
    np.testing.assert_array_equal(np.stack(list(bank)), tiny_pixels)


def test_an_interrupted_prepare_keeps_the_older_file(tmp_path):
    write_zips(tmp_path, tiny_files())
    content = prepare_omniglot(tmp_path, layout=TINY).read_bytes()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_omniglot(tmp_path, layout=TINY, progress=stop)
    assert (tmp_path / "omniglot.npy").read_bytes() == content
    assert len(os.listdir(tmp_path)) == 3 + ("cache" in os.listdir(tmp_path))


def test_read_prepares_once_into_the_cache(tiny_pixels, tmp_path, cache_folder):
    root = tmp_path / "root"
    write_zips(root, tiny_files())
    lines = []
    for _ in range(2):
        bank = read_omniglot(root, layout=TINY, say=lines.append)
        np.testing.assert_array_equal(np.stack(list(bank)), tiny_pixels)
    assert len(lines) == 2
    assert lines[0] == f"preparing Omniglot, once, into the cache folder {cache_folder}"
    assert bank.file.path.parent == cache_folder
    assert list(bank.class_names) == TINY_NAMES
    assert sorted(os.listdir(root)) == ["images_background.zip", "images_evaluation.zip"]

    changed = tiny_files()
    changed["images_evaluation/Gamma/character01/0012_03.png"] = png(99)
    write_zips(root, changed)
    os.utime(root / "images_evaluation.zip", ns=(0, 0))
    again = read_omniglot(root, layout=TINY, say=lines.append)
    assert len(lines) == 4
    assert (np.stack(list(again)) != tiny_pixels).any(axis=(2, 3, 4)).sum() == 1


@pytest.mark.parametrize("name", ["omniglot.npy", "omniglot_data.npy", "omniglot/omniglot.npy"])
def test_read_takes_a_prepared_file(name, tiny_pixels, tmp_path, cache_folder):
    path = tmp_path / "root" / name
    path.parent.mkdir(parents=True)
    np.save(path, tiny_pixels)
    bank = read_omniglot(tmp_path / "root", layout=TINY)
    assert bank.file.path == path
    assert list(bank.class_names) == TINY_NAMES
    np.testing.assert_array_equal(np.stack(list(bank)), tiny_pixels)
    assert not cache_folder.exists()


def test_a_prepared_file_of_another_shape_is_refused(tiny_pixels, tmp_path):
    np.save(tmp_path / "omniglot.npy", tiny_pixels[:4])
    with pytest.raises(ValueError, match=r"4 classes x 3 images of \(1, 28, 28\), but Omniglot has 5 x 3"):
        read_omniglot(tmp_path, layout=TINY)
    np.save(tmp_path / "omniglot.npy", tiny_pixels / 255)
    with pytest.raises(TypeError, match=r"omniglot.npy: pixels must be uint8, got float64 .*; save \(array \* 255"):
        read_omniglot(tmp_path, layout=TINY)
    os.truncate(tmp_path / "omniglot.npy", 1000)
    with pytest.raises(ValueError, match=r"omniglot.npy cannot be mapped"):
        read_omniglot(tmp_path, layout=TINY)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def official(tmp_path, monkeypatch) -> Iterator[Layout]:
    """TINY, with its archives on a web server as if they were official."""
    monkeypatch.setenv("no_proxy", "*")
    write_zips(tmp_path / "official", tiny_files())
    digests = {f.stem: hashlib.md5(f.read_bytes()).hexdigest() for f in (tmp_path / "official").iterdir()}
    archives = tuple(replace(archive, md5=digests[archive.name]) for archive in TINY.archives)
    with serving(partial(Quiet, directory=tmp_path / "official")) as address:
        yield replace(TINY, archives=archives, url=address)


def test_download_fetches_only_what_is_missing(official, tiny_pixels, tmp_path):
    root = tmp_path / "root"
    write_zips(root, tiny_files())
    (root / "images_evaluation.zip").unlink()
    kept = (root / "images_background.zip").stat().st_mtime_ns
    np.testing.assert_array_equal(np.load(prepare_omniglot(root, download=True, layout=official)), tiny_pixels)
    assert (root / "images_background.zip").stat().st_mtime_ns == kept


def test_download_into_a_new_folder(official, tiny_pixels, tmp_path):
    path = prepare_omniglot(tmp_path / "new", download=True, layout=official)
    np.testing.assert_array_equal(np.load(path), tiny_pixels)


def test_download_of_another_file_is_refused(official, tmp_path):
    archives = (replace(official.archives[0], md5="0" * 32), official.archives[1])
    with pytest.raises(RuntimeError, match="does not match the known hash"):
        prepare_omniglot(tmp_path / "new", download=True, layout=replace(official, archives=archives))
    assert os.listdir(tmp_path / "new") == []


def test_download_without_a_net_is_one_clear_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"cannot fetch http://127.0.0.1:1/images_background.zip .*put it at"):
        prepare_omniglot(tmp_path / "new", download=True, layout=TINY)

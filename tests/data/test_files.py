from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from forks import killed

from maml_fast.data._files import cache_folder, naming_disk_errors, only_process, replacing, write_atomically, write_npy

pytestmark = pytest.mark.backendless


def test_the_file_appears_at_the_end_and_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "x.bin"
    with replacing(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert os.listdir(path.parent) == ["x.bin"]


def test_the_file_takes_the_place_of_an_older_one(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_things_as_they_were(error, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def write_and_fail():
        with replacing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_the_file_has_the_usual_permissions(tmp_path):
    with replacing(tmp_path / "x.bin"):
        pass
    (tmp_path / "y.bin").touch()
    assert (tmp_path / "x.bin").stat().st_mode == (tmp_path / "y.bin").stat().st_mode


def test_a_killed_write_leaves_no_file_of_that_name(tmp_path):
    path = tmp_path / "x.bin"

    def write():
        with replacing(path) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed(write, tmp_path / "told")
    assert not path.exists()
    with replacing(path) as file:  # what the killed one left is in nobody's way
        file.write(b"whole")
    assert path.read_bytes() == b"whole"


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npy").mkdir()
    for path in (tmp_path / "file" / "x.npy", tmp_path / "folder.npy", Path("/proc/maml_fast/x.npy")):
        asked = iter(range(1))
        with pytest.raises(RuntimeError, match=f"cannot write {path}: .*choose another place"):
            write_npy(path, (1,), (np.zeros(1, np.uint8) for _ in asked))
        assert next(asked) == 0  # told before any work
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.npy"]


def test_a_cache_that_cannot_be_written_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match="set MAML_FAST_CACHE to another folder"), replacing(cache_folder() / "x"):
        pass


def test_a_full_disk_is_named():
    told = pytest.raises(RuntimeError, match=r"cannot write x\.npy: No space left on device; free space, or choose")
    with told, naming_disk_errors(Path("x.npy")), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")


def test_bytes_take_the_place_of_older_ones_or_leave_them(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(RuntimeError, match=f"cannot write {path}: Permission denied; choose another place"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_write_npy_is_read_by_numpy(tmp_path):
    array = np.random.RandomState(0).randint(0, 256, (5, 2, 3, 4), dtype=np.uint8)
    write_npy(tmp_path / "x.npy", array.shape, (image[:, ::1] for image in array))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array)


def test_only_process_names_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RuntimeError, match=f"cannot write {tmp_path}/file/x"),
        only_process(tmp_path / "file" / "x", print),
    ):
        pytest.fail("the block must not run")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c"
    monkeypatch.delenv("MAML_FAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "maml_fast"

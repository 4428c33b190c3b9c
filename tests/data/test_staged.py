"""A large .npy that is written image after image: whole or not there, and what a kill left is taken over."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from forks import killed

from maml_fast.data import _staged as staged
from maml_fast.data._staged import write_npy_in_stages

pytestmark = pytest.mark.backendless

IMAGES = np.random.RandomState(0).randint(0, 256, (10, 1, 4, 5), dtype=np.uint8)
PER_STAGE = 3


@pytest.fixture(autouse=True)
def short_stages(monkeypatch):
    monkeypatch.setattr(staged, "_STAGE", PER_STAGE * IMAGES[0].nbytes)


class Maker:
    """Makes the images, keeps count, and may fail at one."""

    def __init__(self, fails_at=None, error=KeyboardInterrupt):
        self.made, self.told, self.lines, self.fails_at, self.error = [], [], [], fails_at, error

    def __call__(self, i):
        if i == self.fails_at:
            raise self.error
        self.made.append(i)
        return IMAGES[i][:, :, ::-1][:, :, ::-1]  # not contiguous

    def write(self, path):
        write_npy_in_stages(
            path, IMAGES.shape, self, lambda done, total: self.told.append((done, total)), self.lines.append
        )


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_whole(tmp_path):
    maker = Maker()
    maker.write(tmp_path / "new" / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "x.npy"), IMAGES)
    assert maker.told == [(i, 10) for i in range(1, 11)]
    assert visible(tmp_path / "new") == ["x.npy", "x.npy.sha256"]
    maker.write(tmp_path / "new" / "x.npy")
    assert len(maker.made) == 10  # it is there


@pytest.mark.parametrize("stopped_at", [0, 2, 3, 4, 9])
def test_work_that_was_stopped_goes_on(stopped_at, tmp_path):
    path = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        Maker(stopped_at).write(path)
    assert not path.exists()
    again = Maker()
    again.write(path)
    kept = stopped_at // PER_STAGE * PER_STAGE
    assert again.made == list(range(kept, 10))
    assert again.told[0] == (kept + 1, 10)
    assert len(again.lines) == (kept > 0)
    np.testing.assert_array_equal(np.load(path), IMAGES)
    assert visible(tmp_path) == ["x.npy", "x.npy.sha256"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        Maker(7, ZeroDivisionError).write(tmp_path / "x.npy")
    assert visible(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "other header", "no count", "no number", "no part"])
def test_rests_that_do_not_fit_are_not_taken_over(damage, tmp_path):
    path = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        Maker(8).write(path)
    part, done = tmp_path / ".x.npy.part", tmp_path / ".x.npy.done"
    assert done.read_bytes() == b"6"
    if damage == "cut":
        part.write_bytes(part.read_bytes()[: -3 * IMAGES[0].nbytes])
    elif damage == "other header":
        part.write_bytes(b"x" + part.read_bytes()[1:])
    elif damage == "no count":
        done.unlink()
    elif damage == "no number":
        done.write_bytes(b"six")
    else:
        part.unlink()
    again = Maker()
    again.write(path)
    assert again.made == list(range(10))
    np.testing.assert_array_equal(np.load(path), IMAGES)
    assert visible(tmp_path) == ["x.npy", "x.npy.sha256"]


def test_a_killed_process_leaves_its_stages_and_no_lock(tmp_path):
    def image(i):
        if i == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full(1, i, np.uint8)

    def write():
        staged._STAGE = 3  # in a fork, which has a copy of its own
        write_npy_in_stages(tmp_path / "x.npy", (10, 1), image)

    assert killed(write, tmp_path / "told")
    assert not (tmp_path / "x.npy").exists()
    made = []
    write_npy_in_stages(tmp_path / "x.npy", (10, 1), lambda i: made.append(i) or np.full(1, i, np.uint8))
    assert made == [6, 7, 8, 9]
    assert np.load(tmp_path / "x.npy").ravel().tolist() == list(range(10))


def test_a_second_writer_waits_and_finds_it_done(tmp_path):
    path, begun, may_end = tmp_path / "x.npy", threading.Event(), threading.Event()

    def slow(i):
        begun.set()
        assert may_end.wait(10)
        return IMAGES[i]

    first = threading.Thread(target=write_npy_in_stages, args=(path, IMAGES.shape, slow))
    first.start()
    assert begun.wait(10)
    second = Maker()
    lines = []

    def say(line):
        lines.append(line)
        may_end.set()

    write_npy_in_stages(path, IMAGES.shape, second, say=say)
    first.join()
    assert lines == [f"waiting for another process that makes {path}"]
    assert second.made == []
    np.testing.assert_array_equal(np.load(path), IMAGES)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.npy", tmp_path / "file" / "deep" / "x.npy"):
        maker = Maker()
        with pytest.raises(RuntimeError, match=f"cannot write {path}"):
            maker.write(path)
        assert maker.made == []

"""Writes a large .npy image by image, so that interrupted work can resume where it stopped."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from maml_fast.data._dataset import MessageCallback, Progress, print_to_stderr
from maml_fast.data._files import naming_disk_errors, npy_header, sync_folder, write_atomically
from maml_fast.data._sealed import is_sound, seal

__all__ = ["write_npy_in_stages"]

_STAGE = 1 << 24  # bytes between two syncs to disk: the most that is lost if the process is killed


def write_npy_in_stages(
    path: Path,
    shape: tuple[int, ...],
    image: Callable[[int], np.ndarray],
    progress: Progress | None = None,
    say: MessageCallback = print_to_stderr,
) -> None:
    """Write ``image(0)``, ``image(1)``, ... as one uint8 .npy of this shape; do nothing if `path` is sound.

    The images are written to a hidden file next to `path`, which is renamed to `path` and sealed when it is complete.
    If a process is killed, the next one continues from what was synced to disk. An error in `image` deletes the hidden
    file, because the pictures must then change. One process writes; others wait for it.

    Args:
        path: the .npy to make.
        shape: the shape of the array; ``shape[0]`` is the number of images.
        image: returns an image by its number, uint8 of shape ``shape[1:]``; called for each in order.
        progress: called with (images done, images in total).
        say: called with a message for the user when work resumes or has to wait.

    Raises:
        RuntimeError: the file is not writable.
    """
    with naming_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(path, say):
        if is_sound(path):
            return
        part, done_file = (path.with_name(f".{path.name}.{ending}") for ending in ("part", "done"))
        try:
            _write(part, done_file, shape, image, progress, say)
            with naming_disk_errors(path):
                os.replace(part, path)
                sync_folder(path.parent)
            seal(path)
        except Exception:
            part.unlink(missing_ok=True)
            raise
        finally:
            if not part.exists():
                done_file.unlink(missing_ok=True)


def _write(
    part: Path,
    done_file: Path,
    shape: tuple[int, ...],
    image: Callable[[int], np.ndarray],
    progress: Progress | None,
    say: MessageCallback,
) -> None:
    header, image_bytes = npy_header(shape), math.prod(shape[1:])
    done = _images_done(part, done_file, header, image_bytes)
    if done:
        say(f"resuming after {done:,} of {shape[0]:,} pictures from an earlier run")
    per_stage = max(_STAGE // image_bytes, 1)
    with naming_disk_errors(part):
        file = part.open("r+b" if done else "w+b")
    with file:
        file.write(header)
        file.seek(len(header) + done * image_bytes)
        file.truncate()
        for i in range(done, shape[0]):
            content = np.ascontiguousarray(image(i), np.uint8).data
            with naming_disk_errors(part):
                file.write(content)
                if (i + 1) % per_stage == 0 or i + 1 == shape[0]:
                    file.flush()
                    os.fsync(file.fileno())
                    write_atomically(done_file, str(i + 1).encode())
            if progress:
                progress(i + 1, shape[0])


def _images_done(part: Path, done_file: Path, header: bytes, image_bytes: int) -> int:
    """Return how many images in the file are complete; 0 if the two files do not match."""
    try:
        done = int(done_file.read_bytes())
        with part.open("rb") as file:
            fits = file.read(len(header)) == header
        return done if fits and part.stat().st_size >= len(header) + done * image_bytes else 0
    except (OSError, ValueError):
        return 0


@contextlib.contextmanager
def _only_writer(path: Path, say: MessageCallback) -> Iterator[None]:
    """Hold the lock of `path`. The operating system releases it if the process is killed."""
    import filelock

    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    with naming_disk_errors(path):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"waiting for another process that makes {path}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()

"""Atomic file writes, and names for cached files that depend on what the files are made from."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from maml_fast.native import cache_folder

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "fingerprint",
    "naming_disk_errors",
    "only_process",
    "replacing",
    "stamps",
    "write_atomically",
    "write_npy",
]

_PIXEL_VERSION = 2  # increment when decoding gives other pixels, so that older cached files are not used


@contextmanager
def replacing(path: Path, *, make_folders: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` if the block succeeds and is deleted if it raises.

    The file is written next to `path` under a hidden name, synced to disk and renamed. Such files left behind by
    killed processes are removed. Missing folders are made if `make_folders` is set.

    Raises:
        RuntimeError: the file cannot be created, synced or renamed.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    with naming_disk_errors(path):
        if make_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        _remove_leftovers(path)
        file = temporary.open("xb")
    try:
        _lock(file)
        yield file
        with naming_disk_errors(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # on a full disk this fails again, and would hide the first error
            file.close()
        with suppress(FileNotFoundError):
            temporary.unlink()


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed or the process ends; return False if another process holds the lock."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove the hidden files of killed writers of `path`: those that no process has locked."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.part") if fcntl else ():
        with suppress(OSError), leftover.open("r+b") as file:
            if _lock(file):
                leftover.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable, if the file system can sync folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes, *, make_folders: bool = True) -> None:
    """Replace `path` by these bytes; if the process is killed, the old file or the complete new one remains."""
    with replacing(path, make_folders=make_folders) as file, naming_disk_errors(path):
        file.write(content)


@contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a RuntimeError that names the file and a remedy."""
    try:
        yield
    except OSError as error:
        cached = path.is_relative_to(cache_folder())
        remedy = "set MAML_FAST_CACHE to another folder" if cached else "choose another place for it"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"free space, or {remedy}"
        raise RuntimeError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


@contextmanager
def only_process(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time run the block for this path; the others wait, after a message to `say`.

    The operating system releases the lock if its holder is killed.

    Raises:
        RuntimeError: the lock file next to `path` cannot be written.
    """
    import filelock

    with naming_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"waiting for another process that makes {path}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_npy(path: Path, shape: tuple[int, ...], arrays: Iterable[np.ndarray]) -> None:
    """Write uint8 arrays, one after another, as one .npy file of this shape, through `replacing`.

    The file is opened before the first array is requested, so that an unwritable folder raises before any work is done.
    """
    with replacing(path) as file:
        with naming_disk_errors(path):
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            content = np.ascontiguousarray(array, np.uint8).data
            with naming_disk_errors(path):
                file.write(content)


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return the path, size and modification time of each file, for `fingerprint`."""
    return [(os.path.abspath(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]


def fingerprint(*facts: object) -> str:
    """Return the name of a cached file that is made from these facts; other facts give another name."""
    return hashlib.sha256(repr((_PIXEL_VERSION, *facts)).encode()).hexdigest()[:16]

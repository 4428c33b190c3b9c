"""Writing files so that an interrupted write is never mistaken for a result; where to keep what can be made again."""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import os
import secrets
from collections.abc import Iterable, Iterator
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
    "npy_header",
    "replacing",
    "stamps",
    "sync_folder",
    "write_atomically",
    "write_npy",
]

_MAKING = 2  # raise it when pixels are made differently, so that older caches are left alone


@contextmanager
def replacing(path: Path, *, make_folders: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends well, and vanishes when it does not.

    The file is written beside `path` under a hidden name, brought to disk, and renamed. What killed processes left of
    such files is removed. Missing folders are made, unless their absence tells that something is wrong.

    Raises:
        RuntimeError: the file cannot be made, brought to disk or renamed.
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
        _hold(file)
        yield file
        with naming_disk_errors(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # a full disk fails again here, and would hide what failed first
            file.close()
        with suppress(FileNotFoundError):
            temporary.unlink()


def _hold(file: BinaryIO) -> bool:
    """Lock a file for as long as it is open; return False if somebody else does. The lock dies with its holder."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove the hidden files of writers of `path` that were killed: nobody holds them."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.part") if fcntl else ():
        with suppress(OSError), leftover.open("r+b") as file:
            if _hold(file):
                leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename durable; a file system that cannot sync folders is left as it is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes, *, make_folders: bool = True) -> None:
    """Replace `path` by these bytes, through `replacing`: a kill leaves the old file or the new one, never a part."""
    with replacing(path, make_folders=make_folders) as file, naming_disk_errors(path):
        file.write(content)


@contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a RuntimeError that names the file."""
    try:
        yield
    except OSError as error:
        cached = path.is_relative_to(cache_folder())
        remedy = "set MAML_FAST_CACHE to another folder" if cached else "choose another place for it"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"free space, or {remedy}"
        raise RuntimeError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


def write_npy(path: Path, shape: tuple[int, ...], arrays: Iterable[np.ndarray]) -> None:
    """Write uint8 arrays, one after another, as one .npy file of this shape, through `replacing`.

    The first array is asked for when the file is open, so that an unwritable folder is told before any work.
    """
    with replacing(path) as file:
        with naming_disk_errors(path):
            file.write(npy_header(shape))
        for array in arrays:
            content = np.ascontiguousarray(array, np.uint8).data
            with naming_disk_errors(path):
                file.write(content)


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return what a .npy of uint8 in this shape begins with."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return where every file lies, its size and when it was written: facts for `fingerprint`."""
    return [(os.path.abspath(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]


def fingerprint(*facts: object) -> str:
    """Return a name for what is made from these plain facts, so that other facts never find it in the cache."""
    return hashlib.sha256(repr((_MAKING, *facts)).encode()).hexdigest()[:16]

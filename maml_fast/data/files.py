"""Writing files so that an interrupted write is never mistaken for a result; where to keep what can be made again."""

from __future__ import annotations

import errno
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

_MAKING = 1  # raise it when pixels are made differently, so that older caches are left alone


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends well, and vanishes when it does not.

    The file is written beside `path` under a hidden name, brought to disk, and renamed. Missing folders are made.

    Raises:
        RuntimeError: the file cannot be made, brought to disk or renamed.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    with naming_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        file = temporary.open("xb")
    try:
        with file:
            yield file
            with naming_disk_errors(path):
                file.flush()
                os.fsync(file.fileno())
        with naming_disk_errors(path):
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename durable; a file system that cannot sync folders is left as it is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by these bytes, through `replacing`: a kill leaves the old file or the new one, never a part."""
    with replacing(path) as file, naming_disk_errors(path):
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

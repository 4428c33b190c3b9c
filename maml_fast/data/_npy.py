"""Memory-mapping of .npy files, with precise errors for invalid ones."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

__all__ = ["MappedFile", "map_npy"]


class MappedFile(NamedTuple):
    """The identity of a mapped file: another process can map the same file again, but not a newer one of its name."""

    path: Path
    n_bytes: int
    mtime_ns: int

    def map_again(self) -> np.ndarray:
        """Map the file again; raise RuntimeError if it has been replaced or changed."""
        array, now = map_npy(self.path)
        if now != self:
            raise RuntimeError(f"{self.path} has changed since it was mapped; open the new file instead")
        return array


def map_npy(path: Path) -> tuple[np.ndarray, MappedFile]:
    """Map a .npy file read-only.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a .npy file, holds Python objects, is in Fortran order, is empty or is truncated.
    """
    path = path.absolute()
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a .npy file")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    with file:
        shape, fortran_order, dtype = _read_header(file, path)
        if dtype.hasobject:
            raise ValueError(f"{path} holds Python objects, not pixels; save a uint8 array")
        if fortran_order and len(shape) > 1:
            raise ValueError(f"{path} is in Fortran order; save np.ascontiguousarray(array) instead")
        if math.prod(shape) * dtype.itemsize == 0:
            raise ValueError(f"{path} holds an empty array of shape {shape}")
        offset, status = file.tell(), os.fstat(file.fileno())
        needed = offset + math.prod(shape) * dtype.itemsize
        if status.st_size < needed:
            raise ValueError(
                f"{path} is cut short: for an array of shape {shape} it must have {needed:,} bytes, it has "
                f"{status.st_size:,}; make or copy it again"
            )
        array = np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape)
    return array, MappedFile(path, status.st_size, status.st_mtime_ns)


def _read_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    magic = file.read(6)
    file.seek(0)
    if magic[:4] == b"PK\x03\x04":
        raise ValueError(f"{path} is a .npz or zip archive, not a .npy file; save the one array with np.save")
    if magic != b"\x93NUMPY":
        raise ValueError(f"{path} is not a .npy file: it starts with {magic!r}")
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(file)
        else:
            header = np.lib.format.read_array_header_2_0(file)
        if any(type(n) is not int or n < 0 for n in header[0]):
            raise ValueError(f"shape {header[0]}")
        return header
    except Exception as error:  # damaged headers raise many kinds of errors, Python's parser's among them
        raise ValueError(f"{path} has a damaged .npy header: {error or type(error).__name__}") from None

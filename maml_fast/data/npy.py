"""Mapping a .npy file, with errors that say what is wrong with it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["map_npy"]


def map_npy(path: Path) -> np.ndarray:
    """Map a .npy file read-only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .npy file, holds Python objects, is in Fortran order, is empty or cut short.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a .npy file")
    try:
        with path.open("rb") as file:
            shape, fortran_order, dtype = _read_header(file, path)
            offset = file.tell()
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    if dtype.hasobject:
        raise ValueError(f"{path} holds Python objects, not pixels; save a uint8 array")
    if fortran_order and len(shape) > 1:
        raise ValueError(f"{path} is in Fortran order; save np.ascontiguousarray(array) instead")
    needed = offset + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise ValueError(
            f"{path} is cut short: its header promises {needed:,} bytes {shape}, it has {size:,}; make or copy it again"
        )
    if needed == offset:
        raise ValueError(f"{path} holds an empty array of shape {shape}")
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def _read_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    magic = file.read(6)
    file.seek(0)
    if magic[:4] == b"PK\x03\x04":
        raise ValueError(f"{path} is a .npz or zip archive, not a .npy file; save the one array with np.save")
    if magic != b"\x93NUMPY":
        raise ValueError(f"{path} is not a .npy file (it starts with {magic!r})")
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)
    except ValueError as error:
        raise ValueError(f"{path} has a damaged .npy header: {error}") from None

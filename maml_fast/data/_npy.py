"""Memory-mapping of .npy files, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

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
        ValueError: the file is not a .npy file, is damaged, holds Python objects, is in Fortran order or is empty.
    """
    path = path.absolute()
    try:
        status = path.stat()
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except Exception as error:  # NumPy raises many kinds of errors for damaged files
        raise ValueError(
            f"{path} cannot be mapped as a .npy file ({error}); copy or make it again, with np.save of a uint8 array"
        ) from error
    if not array.flags.c_contiguous:
        raise ValueError(f"{path} is in Fortran order; save np.ascontiguousarray(array) instead")
    if array.size == 0:
        raise ValueError(f"{path} holds an empty array of shape {array.shape}")
    return array, MappedFile(path, status.st_size, status.st_mtime_ns)

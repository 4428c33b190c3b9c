"""The memory that recording leaves behind."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

__all__ = ["give_back_memory"]


def give_back_memory() -> None:
    """Return what is free on the heap to the system, where glibc would keep it.

    Recording computes a task's graph twice, to compare. Training on native kernels needs none of that memory again.
    """
    if trim := _malloc_trim():
        trim(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    """glibc's function; ``None`` with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)

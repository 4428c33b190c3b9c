"""Reads pickled NumPy arrays without running any code that the pickle asks for.

A pickle is a program: it names functions, which Python's own unpickler imports and calls. Here every name either maps
to a class in this file or is rejected. Not even NumPy's own functions are called, because a forged dtype can make them
read memory outside the array.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_pickle"]

_INTEGERS = re.compile(r"[iu][1248]")


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain values (dict, list, tuple, text, numbers) and NumPy arrays of integers.

    Pickles of Python 2 and 3, of any protocol and any NumPy version are read; text and bytes of Python 2 both become
    str.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or asks for anything else; the message names it, and it was not run.
    """
    with path.open("rb") as file:
        try:
            return _finished(_Reader(file, encoding="latin1").load(), {})
        except Exception as error:  # damaged pickles raise many kinds of errors
            raise ValueError(f"{path} cannot be read as a pickle: {str(error) or type(error).__name__}") from error


class _Reader(pickle._Unpickler):
    """The unpickler written in Python: the one in C allocates memory for as many values as a pickle claims to have."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name that pickled arrays need; raise UnpicklingError for any other name."""
        stand_in = _STAND_INS.get((module.replace("numpy._core.", "numpy.core."), name))
        if stand_in is None:
            raise pickle.UnpicklingError(
                f"it asks to run {module}.{name}, which a file of arrays does not need; refused, and nothing was run"
            )
        return stand_in


class _StandIn:
    """Base class of what a pickle may name. It rejects any state, so that a pickle can't set attributes."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"it sets attributes of {type(self).__name__.strip('_')}; refused")


class _Type(_StandIn):
    """Stands for numpy.dtype; integers only."""

    def __init__(self, code: str, align: Any = False, copy: Any = True) -> None:
        if not _INTEGERS.fullmatch(code):
            raise pickle.UnpicklingError(f"it holds an array of dtype {code!r}; only integers are read, such as uint8")
        self._code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        byte_order = state[1]
        if byte_order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds an array of byte order {byte_order!r}")
        self._code = byte_order + self._code[-2:]

    def array(self, content: bytes | bytearray | str, shape: tuple[int, ...], order: Any) -> np.ndarray:
        """Return these bytes as an array; raise ValueError if their number does not fit shape and dtype."""
        if isinstance(content, str):  # Python 2
            content = content.encode("latin1")
        dtype = np.dtype(self._code)
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} and dtype {dtype} comes with {len(content):,} bytes")
        return np.frombuffer(content, dtype).reshape(shape, order=order)


class _Array(_StandIn):
    """Stands for numpy.ndarray, and for the function that makes an empty one for a pickle to fill."""

    def __init__(self, *_: Any) -> None:
        self.content: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, content = state
        self.content = dtype.array(content, shape, "F" if fortran_order else "C")


class _FromBuffer(_StandIn):
    """Stands for the function that makes arrays in protocol 5."""

    def __new__(cls, content: bytes, dtype: _Type, shape: tuple[int, ...], order: str) -> Any:
        return dtype.array(content, shape, order)


class _Scalar(_StandIn):
    """Stands for the function that makes NumPy scalars."""

    def __new__(cls, dtype: _Type, content: bytes) -> Any:
        return int(dtype.array(content, (), "C"))


class _Latin1(_StandIn):
    """Stands for the function that makes bytes of Python 3 in protocols below 3."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks to encode text as {encoding!r}; refused")
        return text.encode("latin1")


_STAND_INS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("_codecs", "encode"): _Latin1,
}


def _finished(value: Any, known: dict[int, Any]) -> Any:
    """Replace stand-ins by their arrays. Shared values stay shared: copies could be exponentially many."""
    if isinstance(value, _Array):
        if value.content is None:
            raise ValueError("it makes an array and does not fill it")
        return value.content
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in known:
        known[id(value)] = _UNFINISHED
        if isinstance(value, dict):
            known[id(value)] = {key: _finished(item, known) for key, item in value.items()}
        else:
            known[id(value)] = [_finished(item, known) for item in value]
    if known[id(value)] is _UNFINISHED:
        raise ValueError("it holds a list or dict that contains itself")
    return known[id(value)]


_UNFINISHED = object()

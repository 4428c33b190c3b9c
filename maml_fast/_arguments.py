"""Validation of arguments, before any work is done.

A *kind* is a function ``(name, value) -> value`` that validates one argument. It returns the value in plain form: NumPy
numbers become Python numbers. It raises TypeError if the type is wrong, and ValueError if the value is out of range or
not one of the choices; the message names the argument, shows the value and says what is allowed. :func:`takes` applies
kinds to the arguments of a function.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AnySet
from numbers import Real
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "MAX_COUNT",
    "Kind",
    "array",
    "bound",
    "check_fields",
    "choice",
    "device",
    "flag",
    "function",
    "instance",
    "int_from",
    "integer",
    "location",
    "many",
    "nn_module",
    "number",
    "optional",
    "shown",
    "takes",
    "tensor",
    "tensor_or",
    "text",
]

P = ParamSpec("P")
R = TypeVar("R")

Kind: TypeAlias = Callable[[str, Any], Any]

MAX_COUNT = 2**31 - 1  # default upper bound of integers; a larger one is likely a mistake


def takes(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Validate the arguments of a function, method or ``__init__`` by their kinds before it runs.

    Defaults, and arguments without a kind, are not validated. Ten arguments take three microseconds.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        unchecked: Callable[..., R] = function
        assert kinds.keys() <= parameters.keys(), f"{kinds.keys() - parameters.keys()}: no such parameters"
        by_place = tuple((name, kinds.get(name)) for name in parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            places = zip(by_place, args, strict=False)
            first = [value if kind is None else kind(name, value) for (name, kind), value in places]
            named = {name: kinds[name](name, value) if name in kinds else value for name, value in kwargs.items()}
            return unchecked(*first, *args[len(first) :], **named)

        return call

    return decorate


def check_fields(it: object, **kinds: Kind) -> None:
    """Validate the fields of a dataclass, which may be frozen, and store their plain forms."""
    for name, kind in kinds.items():
        object.__setattr__(it, name, kind(name, getattr(it, name)))


def tensor(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {shown(value)}; use torch.as_tensor")
    return value


def array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {shown(value)}; use np.asarray")
    return value


def nn_module(name: str, value: Any) -> nn.Module:
    """Accept an ``nn.Module``, but not a class."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be an nn.Module, got {shown(value)}{_instead(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """Accept True or False, but nothing else with a truth value, such as ``"false"`` or 0."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {shown(value)}")


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {shown(value)}")
    return value if type(value) is str else str.__str__(value)


def location(name: str, value: Any) -> Path:
    """Accept the path of a file or folder: a string or an ``os.PathLike``, not empty."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise TypeError(f"{name} must be a path, a string or os.PathLike, got {shown(value)}")
    if not found or "\0" in found:
        raise ValueError(f"{name} must be a path and not empty, got {shown(found)}; '.' is the folder you are in")
    return Path(found)


def device(name: str, value: Any) -> torch.device:
    """Accept a ``torch.device``, or what torch converts to one: "cpu", "cuda:0", the number of a GPU."""
    if isinstance(value, torch.device):
        return value
    if not isinstance(value, str) and not _is_whole(value):
        raise TypeError(f"{name} must be a device such as 'cpu' or 'cuda:0', got {shown(value)}")
    value = value if isinstance(value, str) else int_from(0, 127)(name, value)
    try:
        return torch.device(value)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} must be a device such as 'cpu' or 'cuda:0', got {shown(value)}: {reason}") from None


def integer(name: str, value: Any) -> int:
    """Accept an int, a NumPy integer, or any other value with ``__index__``, but not a bool."""
    if type(value) is int:
        return value
    if isinstance(value, torch.SymInt):  # a size in a trace
        return cast("int", value)
    if not _is_whole(value):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    return operator.index(value)


def int_from(least: int, most: int = MAX_COUNT) -> Kind:
    """Accept an integer from ``least`` to ``most``, both included."""

    def kind(name: str, value: Any) -> int:
        if type(value) is not int:
            value = integer(name, value)
        if not least <= value <= most:
            if value < least and most == MAX_COUNT:
                raise ValueError(f"{name} must be at least {least}, got {shown(value)}")
            raise ValueError(f"{name} must be from {bound(least)} to {bound(most)}, got {shown(value)}")
        return value

    return kind


def number(*, least: float = -math.inf, above: float = -math.inf, below: float = math.inf) -> Kind:
    """Accept a finite number in a range (Python's, NumPy's or a fraction, but not a bool), and return a float."""
    bounds = {"at least": least, "above": above, "below": below}
    words = ["finite", *(f"{how} {each:g}" for how, each in bounds.items() if math.isfinite(each))]
    wanted = " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)

    def kind(name: str, value: Any) -> float:
        found = value
        if type(value) is not float:
            if isinstance(value, torch.SymFloat | torch.SymInt):
                return cast("float", value)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {shown(value)}")
            try:
                found = float(value)
            except OverflowError:
                found = math.inf
        if not (math.isfinite(found) and found >= least and above < found < below):
            raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
        return found

    return kind


def choice(*options: str | int, said: str = "") -> Kind:
    """Accept one of several strings or integers. Messages list them, or show the text ``said`` instead.

    Any other value raises ValueError, whatever its type.
    """
    wanted = f"{said}," if said else f"one of {', '.join(map(str, options))};"

    def kind(name: str, value: Any) -> Any:
        # An array would compare with the options element by element.
        if isinstance(value, str) or (isinstance(value, int | np.integer) and not isinstance(value, bool)):
            for option in options:
                if option == value:
                    return option
        raise ValueError(f"{name} must be {wanted} got {shown(value)}")

    return kind


def optional(kind: Kind) -> Kind:
    def or_none(name: str, value: Any) -> Any:
        return None if value is None else kind(name, value)

    return or_none


def tensor_or(kind: Kind) -> Kind:
    def or_tensor(name: str, value: Any) -> Any:
        return value if isinstance(value, Tensor) else kind(name, value)

    return or_tensor


def instance(type_: type, remedy: str = "") -> Kind:
    """Accept an instance of a class; ``remedy`` is added to the message."""
    article = "an" if type_.__name__[0] in "AEIOU" else "a"
    advice = f"; {remedy}" if remedy else ""

    def kind(name: str, value: Any) -> Any:
        if not isinstance(value, type_):
            raise TypeError(f"{name} must be {article} {type_.__name__}, got {shown(value)}{advice}")
        return value

    return kind


def function(what: str = "a function") -> Kind:
    """Accept a callable (a function, a method, an object with ``__call__``), but not a class."""

    def kind(name: str, value: Any) -> Any:
        if not callable(value) or isinstance(value, type):
            raise TypeError(f"{name} must be {what}, got {shown(value)}{_instead(value)}")
        return value

    return kind


def many(kind: Kind, length: int | None = None) -> Kind:
    """Accept a list, tuple, array or generator of values of a kind, and return them as a tuple."""

    def all_of(name: str, value: Any) -> tuple[Any, ...]:
        # A tensor counts as one value; the other types have no order, or iterate over something unexpected.
        if not isinstance(value, Iterable) or isinstance(value, Tensor | str | bytes | Mapping | AnySet | type):
            raise TypeError(f"{name} must be a sequence, got {shown(value)}")
        if isinstance(value, np.ndarray) and value.ndim != 1:
            raise TypeError(f"{name} must be a sequence, got {shown(value)}")
        found = tuple(kind(f"{name}[{i}]", each) for i, each in enumerate(value))
        if length is not None and len(found) != length:
            raise ValueError(f"{name} must have {length} entries, got {shown(value)}")
        return found

    return all_of


def shown(value: Any) -> str:
    """Return a short text, on one line, that shows any value in a message."""
    try:
        return " ".join(_short.repr(value).split())
    except Exception:  # its own __repr__ fails
        return f"<{type(value).__name__}>"


class _Short(reprlib.Repr):
    """Python's ``reprlib``, except that it shows shape and dtype of tensors and arrays, not their values."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, type):
            return f"the class {x.__name__}"
        if isinstance(x, Tensor | np.ndarray):
            return f"{type(x).__name__} {list(x.shape)} of {x.dtype}"
        return super().repr1(x, level)


_short = _Short()


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool | np.bool_ | type):
        return False
    try:
        operator.index(value)
    except (TypeError, RuntimeError):  # torch raises RuntimeError for a tensor without values
        return False
    return True


def bound(number: int) -> str:
    """Return a bound as text for a message; large bounds are mostly powers of two."""
    if number >= 10**6 and number & (number + 1) == 0:
        return f"2**{number.bit_length()} - 1"
    return f"{number:,}" if number >= 10**5 else str(number)


def _instead(value: Any) -> str:
    return f"; pass an instance, {value.__name__}(...)" if isinstance(value, type) else ""

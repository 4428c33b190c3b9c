"""Calls written for earlier versions: arguments by position, and under earlier names."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import ParamSpec

__all__ = ["takes_earlier_calls"]

P = ParamSpec("P")


def takes_earlier_calls(
    positions: tuple[str, ...], names: Mapping[str, str]
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Let an ``__init__(self, model, *, ...)`` accept such calls, with a FutureWarning that names the arguments.

    Args:
        positions: names of the arguments that may follow ``model`` by position.
        names: today's name of every argument that had another one.
    """

    def decorate(init: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(init)
        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            own, by_position = args[:2], args[2:]
            if not by_position and names.keys().isdisjoint(kwargs):
                return init(*args, **kwargs)
            if len(by_position) > len(positions):
                return init(*args, **kwargs)  # raises Python's own TypeError
            moved = dict(zip(positions, by_position, strict=False))
            renamed = {names[name]: value for name, value in kwargs.items() if name in names}
            others = {name: value for name, value in kwargs.items() if name not in names}
            repeated = sorted((moved.keys() & renamed.keys()) | ((moved.keys() | renamed.keys()) & others.keys()))
            if repeated:
                raise TypeError(f"{type(own[0]).__name__} got several values for {repeated[0]}")
            shown = ", ".join(f"{name}=..." for name in (*moved, *renamed))
            warnings.warn(
                f"pass these arguments of {type(own[0]).__name__} by name: {shown}", FutureWarning, stacklevel=2
            )
            return init(*own, **moved, **renamed, **others)  # type: ignore[arg-type]

        return call

    return decorate

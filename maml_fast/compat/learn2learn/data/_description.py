"""What a task is before its data are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["DataDescription", "TaskDescription"]


class DataDescription:
    """A sample of a task: its number in the data set, and the functions that make it, called one after the other.

    Args:
        index: the number, which is what the first function is called with.
    """

    __slots__ = ("index", "transforms")

    def __init__(self, index: int) -> None:
        self.index = index
        self.transforms: list[Callable[[Any], Any]] = []

    def __repr__(self) -> str:
        return f"DataDescription({self.index}, {len(self.transforms)} transforms)"


TaskDescription = list[DataDescription]

"""Functions that torch.compile must leave alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def not_compiled(function: Callable[[], Result]) -> Callable[[], Result]:
    """Do what torch.compiler.disable does, without its import of the whole compiler, which takes a second."""

    @functools.wraps(function)
    def call() -> Result:
        # Code that is being compiled has imported the compiler already.
        return torch.compiler.disable(function)() if torch.compiler.is_compiling() else function()

    return call

"""Excludes functions from torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def not_compiled(function: Callable[[], Result]) -> Callable[[], Result]:
    """Do what torch.compiler.disable does, without importing the whole compiler, which takes a second."""

    @functools.wraps(function)
    def call() -> Result:
        # When code is being compiled, the compiler is already imported.
        return torch.compiler.disable(function)() if torch.compiler.is_compiling() else function()

    return call

"""Lets ``import learn2learn`` find this package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["install_alias"]

ALIAS = "learn2learn"
REAL = "maml_fast.compat.learn2learn"


class _Finder:
    """Finds this package's modules under learn2learn's names, before any learn2learn that may be installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != ALIAS and not name.startswith(f"{ALIAS}."):
            return None
        real = REAL + name.removeprefix(ALIAS)
        try:
            module = importlib.import_module(real)
        except ModuleNotFoundError as error:
            if error.name != real:
                raise
            parent, _, child = real.rpartition(".")
            has = ", ".join(sys.modules[parent].__all__)
            raise ModuleNotFoundError(f"{parent} has no {child}: it has {has}", name=name) from None
        return ModuleSpec(name, _Loader(module), is_package=hasattr(module, "__path__"))


class _Loader(Loader):
    """Gives out a module that is loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which the import system has replaced


def install_alias() -> None:
    """From now on, ``import learn2learn`` means ``maml_fast.compat.learn2learn`` in this process.

    Raises:
        RuntimeError: if another ``learn2learn`` has been imported already.
    """
    found = sys.modules.get(ALIAS)
    if found is not None and found.__name__ != REAL:
        raise RuntimeError("learn2learn has been imported already; install the alias first")
    finder: Any = _Finder()
    sys.meta_path.insert(0, finder)

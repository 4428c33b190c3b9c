"""Twins of a module: modules of its class with its attributes, but other layers and tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["fill_patched_layers", "share", "twin_of"]

_SHARED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def share(module: nn.Module, other: nn.Module) -> None:
    """Give ``module`` the very dictionaries of ``other``, so that both have the same layers and tensors for good."""
    vars(module).update({name: vars(other)[name] for name in _SHARED})


def twin_of(module: nn.Module, copy: nn.Module) -> nn.Module:
    """Return a module of the class of ``module``, with its attributes, and the layers and tensors of ``copy``."""
    twin: nn.Module = object.__new__(type(module))
    vars(twin).update(vars(module))
    share(twin, copy)
    return twin


def fill_patched_layers(module: nn.Module) -> None:
    """If ``module`` is part of a copy that higher has made, give the current fast weights to all layers of the copy.

    higher itself gives a layer its weights only when this layer is called.
    """
    base = getattr(sys.modules.get("higher.patch"), "_MonkeyPatchBase", ())
    if isinstance(module, base):
        root: Any = module.root
        _fill(root, iter(root._expand_params(root.fast_params)))


def _fill(layer: Any, weights: Iterator[Tensor]) -> None:
    for name in layer._param_names:
        layer._parameters[name] = next(weights)
    for part in layer._modules.values():
        _fill(part, weights)

"""Shallow copies of modules, and the exchange of the tensors that modules hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

__all__ = ["ById", "copy_of_modules", "replace_tensors"]

M = TypeVar("M", bound=nn.Module)

ById = dict[int, Tensor]  # by the id of a tensor: hashing tensors themselves takes several times as long


def copy_of_modules(module: M) -> tuple[M, Iterable[nn.Module]]:
    """Return a copy of a module that holds the same tensors and other attributes, and all its submodules and itself."""
    copies: dict[nn.Module, nn.Module] = {}
    return _copy(module, copies), copies.values()  # type: ignore[return-value]


def _copy(module: nn.Module, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in copies:
        return copies[module]
    copy: nn.Module = object.__new__(type(module))
    held = vars(copy)
    held.update(vars(module))
    copies[module] = copy
    held["_parameters"], held["_buffers"] = module._parameters.copy(), module._buffers.copy()
    held["_modules"] = {
        name: child if child is None else _copy(child, copies) for name, child in module._modules.items()
    }
    return copy


def replace_tensors(parts: Iterable[nn.Module], tensors: ById) -> None:
    """Replace parameters and buffers wherever modules hold them; ``setattr`` would accept only parameters."""
    for part in parts:
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if id(tensor) in tensors:
                    held[name] = tensors[id(tensor)]  # type: ignore[assignment]
        if isinstance(part, nn.RNNBase):  # its forward reads a list of its weights
            vars(part)["_flat_weights"] = [getattr(part, name, None) for name in part._flat_weights_names]

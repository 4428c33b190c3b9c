"""Shallow copies of modules, and the exchange of the tensors that modules hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["copy_of_modules", "replace_tensors"]

M = TypeVar("M", bound=nn.Module)


def copy_of_modules(module: M) -> M:
    """Return a copy of a module and its submodules that holds the same tensors and other attributes."""
    copies: dict[nn.Module, nn.Module] = {part: _shallow_copy(part) for part in module.modules()}
    for copy in copies.values():
        copy._modules.update({name: copies[part] for name, part in copy._modules.items() if part is not None})
    return copies[module]  # type: ignore[return-value]


def replace_tensors(module: nn.Module, tensors: Mapping[Tensor, Tensor]) -> None:
    """Replace parameters and buffers wherever a module holds them; ``setattr`` would accept only parameters."""
    for part in module.modules():
        own: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for held in own:
            held.update({name: tensors[tensor] for name, tensor in held.items() if tensor in tensors})
        if isinstance(part, nn.RNNBase):  # its forward reads a list of its weights
            vars(part)["_flat_weights"] = [getattr(part, name, None) for name in part._flat_weights_names]


def _shallow_copy(module: nn.Module) -> nn.Module:
    copy: nn.Module = object.__new__(type(module))
    vars(copy).update(vars(module))
    for own in ("_parameters", "_buffers", "_modules"):
        vars(copy)[own] = vars(module)[own].copy()
    return copy

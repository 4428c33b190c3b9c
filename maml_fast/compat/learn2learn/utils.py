"""Clone modules so that their parameters are functions of another module's, and update them differentiably."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from maml_fast._arguments import many, nn_module, optional, takes, tensor
from maml_fast.maml._inner_rates import check_broadcasts

__all__ = ["clone_module", "clone_parameters", "copy_of_modules", "detach_module", "update_module"]

M = TypeVar("M", bound=nn.Module)


@takes(param_list=many(tensor))
def clone_parameters(param_list: Iterable[Tensor]) -> list[Tensor]:
    """Return a differentiable copy of every tensor."""
    return [parameter.clone() for parameter in param_list]


@takes(module=nn_module)
def clone_module(module: M) -> M:
    """Return a copy of a module with a ``.clone()`` of every parameter, so that gradients flow back to the module.

    As in learn2learn, buffers that do not require gradients are shared: the copy and the module update the same running
    statistics. All other attributes are the same objects. Tied parameters stay tied, and a submodule with two names
    stays a single one.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.requires_grad]
    clones: dict[Tensor, Tensor] = {tensor: tensor.clone() for tensor in (*module.parameters(), *buffers)}
    copy = copy_of_modules(module)
    for part in copy.modules():
        _replace(part, clones)
    return copy


def copy_of_modules(module: M) -> M:
    """Return a copy of a module and its submodules that holds the same tensors and other attributes."""
    copies: dict[nn.Module, nn.Module] = {part: _shallow_copy(part) for part in module.modules()}
    for copy in copies.values():
        copy._modules.update({name: copies[part] for name, part in copy._modules.items() if part is not None})
    return copies[module]  # type: ignore[return-value]


@takes(module=nn_module, updates=many(optional(tensor)))
def update_module(module: M, updates: Sequence[Tensor | None]) -> M:
    """Replace every parameter p of a cloned module by p + u, differentiably; return the module.

    Args:
        module: the cloned module, changed in place; the tensors that it held are not modified.
        updates: one update u for each of ``module.parameters()``, in their order; ``None`` leaves the parameter
            unchanged.

    Raises:
        TypeError: if ``module`` is not a module, or ``updates`` is not a sequence of tensors.
        ValueError: if the number of updates is not that of the parameters, or one does not fit its parameter's shape.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    parameters = list(names)
    if len(updates) != len(parameters):
        raise ValueError(f"the module has {len(parameters)} parameters, got {len(updates)} updates")
    for i, (parameter, update) in enumerate(zip(parameters, updates, strict=True)):
        if update is not None and update.shape != parameter.shape:
            check_broadcasts(update, {names[parameter]: parameter}, f"updates[{i}]")
    steps = zip(parameters, updates, strict=True)
    updated: dict[Tensor, Tensor] = {p: p + step for p, step in steps if step is not None}
    for part in module.modules():
        _replace(part, updated)
    return module


@takes(module=nn_module)
def detach_module(module: nn.Module) -> None:
    """Detach a cloned module's parameters and buffers from the autograd graph, in place."""
    for held in (*module.parameters(), *module.buffers()):
        held.detach_()


def _shallow_copy(module: nn.Module) -> nn.Module:
    copy: nn.Module = object.__new__(type(module))
    vars(copy).update(vars(module))
    for own in ("_parameters", "_buffers", "_modules"):
        vars(copy)[own] = vars(module)[own].copy()
    return copy


def _replace(module: nn.Module, tensors: Mapping[Tensor, Tensor]) -> None:
    """Replace a module's own parameters and buffers; ``setattr`` would accept only an ``nn.Parameter``."""
    own: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
    for held in own:
        held.update({name: tensors[tensor] for name, tensor in held.items() if tensor in tensors})

"""Clone modules so that their parameters are functions of another module's, and update them differentiably."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from maml_fast._arguments import flag, instance, many, nn_module, optional, shown, takes, tensor
from maml_fast.compat.learn2learn._copies import copy_of_modules, replace_tensors
from maml_fast.compat.learn2learn._fused_calls import share_recordings
from maml_fast.inner_loop._rates import check_broadcasts

__all__ = ["clone_module", "clone_named_parameters", "clone_parameters", "detach_module", "update_module"]

M = TypeVar("M", bound=nn.Module)

Memo = dict[Tensor, Tensor]
MEMO = optional(instance(dict))


@takes(param_list=many(tensor))
def clone_parameters(param_list: Iterable[Tensor]) -> list[Tensor]:
    """Return a differentiable copy of every tensor."""
    return [parameter.clone() for parameter in param_list]


def clone_named_parameters(param_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a differentiable copy of every tensor, under its name."""
    if not hasattr(param_dict, "items"):
        raise TypeError(f"param_dict must map names to tensors, got {shown(param_dict)}")
    return {name: tensor(f"param_dict[{name!r}]", parameter).clone() for name, parameter in param_dict.items()}


@takes(module=optional(nn_module), memo=MEMO)
def clone_module(module: M, memo: Memo | None = None) -> M:
    """Return a copy of a module with a ``.clone()`` of every parameter, so that gradients flow back to the module.

    As in learn2learn, buffers that do not require gradients are shared: the copy and the module update the same running
    statistics. All other attributes are the same objects. Tied parameters stay tied, and a submodule with two names
    stays a single one.

    Args:
        module: the module; ``None`` is returned as it is.
        memo: the clones of earlier calls, which this call uses and adds to: modules that share parameters are cloned
            with the same ``memo``.
    """
    if module is None:
        return module
    share_recordings(module)
    copy, parts = copy_of_modules(module)
    clones = {} if memo is None else {id(held): clone for held, clone in memo.items()}
    for part in parts:
        buffers = (held for held in part._buffers.values() if held is not None and held.requires_grad)
        for held in (*part._parameters.values(), *buffers):
            if held is not None and id(held) not in clones:
                clones[id(held)] = held.clone()
                if memo is not None:
                    memo[held] = clones[id(held)]
    replace_tensors(parts, clones)
    return copy


@takes(module=nn_module, updates=optional(many(optional(tensor))), memo=MEMO)
def update_module(module: M, updates: Sequence[Tensor | None] | None = None, memo: Memo | None = None) -> M:
    """Replace every parameter p of a cloned module by p + u, differentiably; return the module.

    Args:
        module: the cloned module, changed in place; the tensors that it held are not modified.
        updates: one update u for each of ``module.parameters()``, in their order; ``None`` leaves the parameter
            unchanged. By default, the ``.update`` attributes of the module's tensors, which are set to ``None``.
        memo: the tensors that earlier calls replaced, which this call uses and adds to.

    Raises:
        TypeError: if ``module`` is not a module, or ``updates`` is not a sequence of tensors.
        ValueError: if the number of updates is not that of the parameters, or one does not fit its parameter's shape.
    """
    updated: Memo = {} if memo is None else memo
    steps = _updates_of_tensors(module) if updates is None else _checked_updates(module, updates)
    for held, step in steps:
        if step is not None and held not in updated:
            updated[held] = held + step
    replace_tensors(module.modules(), {id(held): new for held, new in updated.items()})
    return module


def _updates_of_tensors(module: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    tensors = [*module.parameters(), *module.buffers()]
    steps = [(held, getattr(held, "update", None)) for held in tensors]
    for held, step in steps:
        if step is not None:
            held.update = None  # type: ignore[attr-defined]
    return steps


def _checked_updates(module: nn.Module, updates: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor | None]]:
    parameters = list(module.named_parameters())
    if len(updates) != len(parameters):
        raise ValueError(f"the module has {len(parameters)} parameters, got {len(updates)} updates")
    for i, ((name, parameter), update) in enumerate(zip(parameters, updates, strict=True)):
        if update is not None and update.shape != parameter.shape:
            check_broadcasts(update, {name: parameter}, f"updates[{i}]")
    return [(parameter, update) for (_, parameter), update in zip(parameters, updates, strict=True)]


@takes(module=nn_module, keep_requires_grad=flag)
def detach_module(module: nn.Module, keep_requires_grad: bool = False) -> None:
    """Detach a cloned module's parameters and buffers from the autograd graph, in place.

    Args:
        module: the cloned module.
        keep_requires_grad: whether tensors that required gradients still do, as leaves of new graphs.
    """
    for held in (*module.parameters(), *module.buffers()):
        required = held.requires_grad
        held.detach_().requires_grad_(required and keep_requires_grad)

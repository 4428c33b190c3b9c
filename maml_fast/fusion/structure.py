"""A copy of a module tree that shares all parameters and buffers, and the batch norm policy of the copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast.nn import BatchStatNorm2d, batch_stat_norm
from maml_fast.program.report import FusionPolicy

__all__ = [
    "follows_policy",
    "keeps_running_statistics",
    "set_batch_norm_policy",
    "structural_copy",
    "takes_batch_statistics",
]

_AXES: dict[type, tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}


def structural_copy(model: nn.Module) -> nn.Module:
    """Copy every module of the tree, and share every parameter and buffer.

    A copied module holds the original's very dictionaries of parameters and buffers, so that ``model.to(...)``,
    ``load_state_dict`` or a parameter put in another's place are seen by both. Other attributes are copied, with what
    they say of modules, bound methods included, pointing into the copy; what can't be copied is shared.
    """
    clones: dict[int, nn.Module] = {}
    memo: dict[int, Any] = {}  # deepcopy's: id of an original -> what stands for it in the copy
    modules = list(model.modules())
    for module in modules:
        clones[id(module)] = memo[id(module)] = object.__new__(type(module))
        for shared in (module._parameters, module._buffers):
            memo[id(shared)] = shared
            memo.update({id(tensor): tensor for tensor in shared.values()})
    for module in modules:
        for value in module.__dict__.values():
            for outsider in _outsiders(value):
                memo.setdefault(id(outsider), outsider)
    for module in modules:
        vars(clones[id(module)]).update({name: _copied(value, memo) for name, value in vars(module).items()})
    return clones[id(model)]


def _outsiders(value: Any) -> Iterable[Any]:
    """Return the tensors and modules in a plain attribute: those of the tree are known, the others stay as they are."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else (value,)
    return [item for item in items if isinstance(item, (nn.Module, Tensor))]


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # a lock, a generator, an open file, ...: whatever its type raises
        return value


def set_batch_norm_policy(root: nn.Module, policy: FusionPolicy) -> list[str]:
    """Make every batch norm of a structural copy follow the policy; return the names of those that could not.

    The module keeps its class, parameters, buffers and place, and gets a ``forward`` of its own. Layers whose class
    overrides ``forward`` are a user's own invention and stay.
    """
    strangers = []
    for name, module in root.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        if policy == "running" and module.running_mean is None:
            raise ValueError(
                f"batch_norm='running' needs running statistics, and {name or 'the model'} keeps none "
                f"(track_running_stats=False); use batch_norm='batch'"
            )
        if follows_policy(module):
            continue
        if type(module).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward) or "forward" in vars(module):
            strangers.append(name)
            continue
        vars(module)["forward"] = partial(_FORWARDS[policy], module)
    return strangers


def follows_policy(module: nn.Module) -> bool:
    """Return whether the module is a batch norm layer that :func:`set_batch_norm_policy` has seen to."""
    return isinstance(module, BatchStatNorm2d) or _own_forward(module) in _FORWARDS.values()


def takes_batch_statistics(module: nn.Module) -> bool:
    """Return whether the module is a batch norm layer that takes the batch's statistics.

    As written, layers do in the training mode, and without running statistics; else it is under any circumstances.
    """
    if _own_forward(module) is _written_forward:
        return module.training or (module.running_mean is None and module.running_var is None)
    return isinstance(module, BatchStatNorm2d) or _own_forward(module) is _batch_forward


def keeps_running_statistics(module: nn.Module) -> bool:
    """Return whether the module is a batch norm layer as written that updates its running statistics when called."""
    tracks = module.track_running_stats and module.running_mean is not None
    return _own_forward(module) is _written_forward and module.training and bool(tracks)


def _own_forward(module: nn.Module) -> Any:
    forward = vars(module).get("forward")
    return forward.func if isinstance(forward, partial) else None


def _axes(module: _BatchNorm) -> tuple[int, ...] | None:
    return next((axes for kind, axes in _AXES.items() if isinstance(module, kind)), None)


def _batch_forward(module: _BatchNorm, input: Tensor) -> Tensor:
    return batch_stat_norm(input, module.weight, module.bias, module.eps, axes=_axes(module))


def _written_forward(module: _BatchNorm, input: Tensor) -> Tensor:
    return type(module).forward(module, input)


def _running_forward(module: _BatchNorm, input: Tensor) -> Tensor:
    axes = _axes(module)
    if axes is not None and input.dim() not in axes:
        raise ValueError(f"batch norm expected {' or '.join(f'{n}-D' for n in axes)} input, got {list(input.shape)}")
    assert module.running_mean is not None
    assert module.running_var is not None
    shape = [-1 if d == 1 else 1 for d in range(input.dim())]
    scale = torch.rsqrt(module.running_var + module.eps)
    z = (input - module.running_mean.view(shape)) * scale.view(shape)
    if module.weight is not None:
        z = z * module.weight.view(shape)
    if module.bias is not None:
        z = z + module.bias.view(shape)
    return z


_FORWARDS: dict[FusionPolicy, Callable[[Any, Tensor], Tensor]] = {
    "batch": _batch_forward,
    "running": _running_forward,
    "as_written": _written_forward,
}

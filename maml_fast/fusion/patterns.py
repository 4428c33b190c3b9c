"""Reading single nodes of a torch.fx graph: is it a convolution, a batch norm, a ReLU, a max-pool, and of what kind?

Each comes as a module of ``torch.nn``, a function of ``torch`` or ``torch.nn.functional``, or a method of a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from maml_fast.fusion.structure import keeps_running_statistics, takes_batch_statistics
from maml_fast.fusion.trace import has_hooks
from maml_fast.nn import batch_stat_norm

__all__ = [
    "Conv",
    "Norm",
    "Running",
    "arguments",
    "input_of",
    "is_relu",
    "is_relu_in_place",
    "read_conv",
    "read_norm",
    "read_pool",
]

_CONV = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_POOL = {"input": None, "kernel_size": None, "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
_POOL_FUNCTIONAL = {**_POOL, "return_indices": False}
_NORM = {"x": None, "weight": None, "bias": None, "eps": None, "axes": None}

_RELU_FUNCTIONS = (F.relu, torch.relu, torch.relu_)
_RELU_METHODS = ("relu", "relu_")


@dataclass(frozen=True)
class Conv:
    """A convolution that the fused operation can do; weight and bias are the names of attributes."""

    where: str
    weight: str
    bias: str | None
    shape: tuple[int, int, int]  # Cin, Cout, k
    stride: int
    padding: int


@dataclass(frozen=True)
class Running:
    """Running statistics that a batch norm updates; but for momentum, names of attributes."""

    mean: str
    variance: str
    count: str | None
    momentum: float | None


@dataclass(frozen=True)
class Norm:
    """A batch norm on the batch's own statistics; gamma and beta are the names of attributes."""

    gamma: str | None
    beta: str | None
    eps: float
    running: Running | None = None


def read_conv(node: Node, root: nn.Module) -> Conv | str | None:
    """Return the two-dimensional convolution at a node, or why it can't be fused, or ``None`` if it is none."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return _read_conv_module(str(node.target), module) if isinstance(module, nn.Conv2d) else None
    if node.op != "call_function" or node.target is not F.conv2d:
        return None
    values = arguments(node, _CONV)
    weight, bias = _attribute(values["weight"]), _attribute(values["bias"])
    tensor = None if weight is None else _fetch(root, weight)
    if weight is None or tensor is None or (bias is None and values["bias"] is not None):
        return f"{node.name}: convolution with computed parameters"
    geometry = _geometry(tensor, values["stride"], values["padding"], values["dilation"], values["groups"], "zeros")
    return f"{weight}: {geometry}" if isinstance(geometry, str) else Conv(weight, weight, bias, *geometry)


def _read_conv_module(name: str, module: nn.Conv2d) -> Conv | str:
    if type(module) is not nn.Conv2d:
        return f"{name}: {type(module).__name__} is not torch.nn.Conv2d itself"
    if has_hooks(module):
        return f"{name}: the convolution has hooks"
    geometry = _geometry(
        module.weight, module.stride, module.padding, module.dilation, module.groups, module.padding_mode
    )
    if isinstance(geometry, str):
        return f"{name}: {geometry}"
    return Conv(name, f"{name}.weight", None if module.bias is None else f"{name}.bias", *geometry)


def _geometry(
    weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: Any, mode: str
) -> tuple[tuple[int, int, int], int, int] | str:
    """Return ((Cin, Cout, k), stride, padding), or why the fused operation does not have such a convolution."""
    if groups != 1:
        return f"convolution in {groups} groups"
    if _square(dilation) != 1:
        return f"dilated convolution (dilation {dilation})"
    if mode != "zeros":
        return f"convolution with padding mode {mode!r}"
    out_channels, in_channels, *kernel = weight.shape
    side, step = _square(kernel), _square(stride)
    if side not in (1, 3, 5):
        return f"convolution with kernel {'x'.join(map(str, kernel))}; 1x1, 3x3 and 5x5 can be fused"
    if step not in (1, 2, 3):
        return f"convolution with stride {stride}; 1, 2 and 3 can be fused"
    if isinstance(padding, str):
        padding = {"valid": 0, "same": side // 2}[padding]  # torch has 'same' at stride 1 only; the kernel is odd
    border = _square(padding)
    if border is None:
        return f"convolution with padding {padding}; only the same on every side can be fused"
    return (in_channels, out_channels, side), step, border


def read_norm(node: Node, root: nn.Module) -> Norm | None:
    """Return the batch norm at a node if it normalises [B, C, H, W] by the batch's own statistics."""
    if node.op == "call_module":
        name = str(node.target)
        module = root.get_submodule(name)
        if not (isinstance(module, nn.BatchNorm2d) and takes_batch_statistics(module)) or has_hooks(module):
            return None
        return Norm(
            None if module.weight is None else f"{name}.weight",
            None if module.bias is None else f"{name}.bias",
            module.eps,
            _running(name, module) if keeps_running_statistics(module) else None,
        )
    if node.op != "call_function" or node.target is not batch_stat_norm:
        return None
    values = arguments(node, _NORM)
    gamma, beta, eps = _attribute(values["weight"]), _attribute(values["bias"]), values["eps"]
    computed = (gamma is None and values["weight"] is not None) or (beta is None and values["bias"] is not None)
    return None if computed or isinstance(eps, Node) else Norm(gamma, beta, float(eps))


def _running(name: str, module: nn.BatchNorm2d) -> Running:
    count = None if module.num_batches_tracked is None else f"{name}.num_batches_tracked"
    return Running(f"{name}.running_mean", f"{name}.running_var", count, module.momentum)


def is_identity(node: Node, root: nn.Module) -> bool:
    """Return whether a node is an ``nn.Identity``, as stands where a network leaves a layer out."""
    if node.op != "call_module":
        return False
    module = root.get_submodule(str(node.target))
    return type(module) is nn.Identity and not has_hooks(module)


def is_relu(node: Node, root: nn.Module) -> bool:
    """Return whether a node is a ReLU, in place or not."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return type(module) is nn.ReLU and not has_hooks(module)
    if node.op == "call_method":
        return node.target in _RELU_METHODS
    return node.op == "call_function" and node.target in _RELU_FUNCTIONS


def is_relu_in_place(node: Node, root: nn.Module) -> bool:
    """Return whether a node is a ReLU that overwrites its input."""
    if not is_relu(node, root):
        return False
    if node.op == "call_module":
        return bool(root.get_submodule(str(node.target)).inplace)
    if node.target is F.relu:
        return bool(arguments(node, {"input": None, "inplace": False})["inplace"])
    return node.target in ("relu_", torch.relu_)


def read_pool(node: Node, root: nn.Module) -> str | None:
    """Return ``"2x2"`` for the max-pool of the fused operation, ``"other"`` for another one, ``None`` for neither."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if type(module) is not nn.MaxPool2d or has_hooks(module):
            return None
        values = {name: getattr(module, name) for name in _POOL_FUNCTIONAL if name != "input"}
    elif node.op == "call_function" and node.target in (F.max_pool2d, torch.max_pool2d):
        values = arguments(node, _POOL_FUNCTIONAL)
    else:
        return None
    if values["return_indices"]:
        return None
    stride = values["stride"] if values["stride"] not in (None, (), []) else values["kernel_size"]
    sizes = [_square(value) for value in (values["kernel_size"], stride, values["padding"], values["dilation"])]
    return "2x2" if sizes == [2, 2, 0, 1] and not values["ceil_mode"] else "other"


def arguments(node: Node, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name; ``defaults`` holds all of them, in order."""
    return {**defaults, **dict(zip(defaults, node.args, strict=False)), **node.kwargs}


def input_of(node: Node) -> Any:
    """Return the first argument of a call, given by place or by name."""
    return node.args[0] if node.args else next(iter(node.kwargs.values()), None)


def _attribute(value: Any) -> str | None:
    return str(value.target) if isinstance(value, Node) and value.op == "get_attr" else None


def _fetch(root: nn.Module, name: str) -> Tensor | None:
    path, _, attribute = name.rpartition(".")
    value = getattr(root.get_submodule(path), attribute)
    return value if isinstance(value, Tensor) and value.dim() == 4 else None


def _square(value: Any) -> int | None:
    """Return n for n, (n,) or (n, n); ``None`` for anything else."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    same = len(values) in (1, 2) and all(isinstance(v, int) and v == values[0] for v in values)
    return int(values[0]) if same else None

"""Single operations of one task's recorded ``forward``, as they are done for all tasks at once.

What is [N, ...] in the recording is [T, N, ...] here, and every dimension that it names is one further to the right.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from maml_fast.fusion.patterns import arguments, input_of, read_pool
from maml_fast.fusion.trace import has_hooks
from maml_fast.nn import ConvBlock, conv_block, conv_block_of_tasks
from maml_fast.recurrent import lstm, lstm_of_tasks

__all__ = [
    "Step",
    "Weight",
    "flatten",
    "fold",
    "geometry_of_block",
    "gives_size",
    "linear",
    "mean",
    "read_step",
    "reshape",
    "size",
]

_POINTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Identity, nn.Dropout),
)
_POINTWISE: dict[Any, Callable[..., Tensor]] = {
    **{each: each for each in (F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish)},
    **{each: each for each in (F.softplus, F.softsign, F.logsigmoid, F.hardtanh, F.hardsigmoid, F.hardswish)},
    **{each: each for each in (torch.relu, torch.relu_, torch.sigmoid, torch.tanh, F.sigmoid, F.tanh)},
    **{name: getattr(Tensor, name) for name in ("relu", "relu_", "sigmoid", "tanh")},
}
_COPIES = {"contiguous": Tensor.contiguous, "clone": Tensor.clone, torch.clone: Tensor.clone}
_POOLS = (F.avg_pool2d, F.adaptive_avg_pool2d)
_POOL_MODULES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_BLOCK = dict.fromkeys(
    ("x", "weight", "bias", "gamma", "beta", "stride", "padding", "pool", "eps", "relu_first")  # of nn.conv_block
)
_LSTM = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of recurrent.lstm


class Weight(NamedTuple):
    """A parameter or buffer as an operand, by its place in the module."""

    name: str


class Step(NamedTuple):
    """``run(*operands)``; an operand is the value of a node, a :class:`Weight`, or a constant."""

    run: Callable[..., Any]
    operands: tuple[Any, ...]


def read_step(node: Node, root: nn.Module, sizes: Collection[Node]) -> Step | None:
    """Return what a node does to all tasks, or ``None`` if that is not known. ``sizes`` are the nodes of no tensor."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if has_hooks(module) or len(node.args) != 1 or node.kwargs:
            return None
        return _read_module(module, str(node.target), node)
    if node.op not in ("call_function", "call_method"):
        return None
    if read_pool(node, root) or node.target in _POOLS or getattr(node.target, "per_image", False):
        return _on_input(node, lambda function: partial(fold, function), node.target)
    if node.target in _COPIES:  # whatever order in memory they ask for: that of all tasks is another
        return Step(_COPIES[node.target], (input_of(node),))
    if node.target in _POINTWISE:
        return _on_input(node, lambda function: function, _POINTWISE[node.target])
    reader = _READERS.get(node.target)
    return reader(node, sizes) if reader else None


def gives_size(node: Node) -> bool:
    """Return whether a node that has a step gives numbers instead of a tensor."""
    return node.target in ("size", getattr, operator.getitem)


def geometry_of_block(step: Step) -> dict[str, Any] | None:
    """Return the geometry of a conv block, as :func:`maml_fast.ops.conv_block` takes it; ``None`` of other steps."""
    return step.run.keywords if isinstance(step.run, partial) and step.run.func is conv_block_of_tasks else None


def _read_module(module: nn.Module, name: str, node: Node) -> Step | None:
    x = node.args[0]
    if isinstance(module, ConvBlock):
        parameters = (module.conv.bias, module.norm.weight, module.norm.bias)
        places = (f"{name}.conv.bias", f"{name}.norm.weight", f"{name}.norm.bias")
        rest = (None if p is None else Weight(place) for p, place in zip(parameters, places, strict=True))
        return Step(partial(conv_block_of_tasks, **module.geometry), (x, Weight(f"{name}.conv.weight"), *rest))
    if type(module) is nn.Linear:
        return Step(linear, (x, Weight(f"{name}.weight"), None if module.bias is None else Weight(f"{name}.bias")))
    if type(module) is nn.Flatten:
        return Step(flatten, (x, module.start_dim, module.end_dim))
    if type(module) in _POINTWISE_MODULES:
        return Step(module.forward, (x,))
    if type(module) in _POOL_MODULES or (type(module) is nn.MaxPool2d and not module.return_indices):
        return Step(partial(fold, module.forward), (x,))
    return None


def _on_input(node: Node, form: Callable[[Any], Any], function: Any) -> Step | None:
    """Read a function of one tensor; its other arguments must be constants."""
    x = input_of(node)
    if node.all_input_nodes != [x]:
        return None
    options = {name: value for name, value in node.kwargs.items() if value is not x}
    return Step(partial(form(function), **options) if options else form(function), (x, *node.args[1:]))


def fold(function: Callable[..., Tensor], x: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Give the images of all tasks to a function as one batch."""
    return function(x.flatten(0, 1), *rest, **options).unflatten(0, x.shape[:2])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [T, N, ..., in], weight [T, out, in], bias [T, out] -> [T, N, ..., out]."""
    if x.shape[-1] != weight.shape[-1]:
        raise ValueError(f"a linear layer of {weight.shape[-1]} features got {list(x.shape)}, tasks first")
    rows = x if x.dim() == 3 else x.reshape(x.shape[0], -1, x.shape[-1])
    out = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
    return out if x.dim() == 3 else out.view(*x.shape[:-1], -1)


def flatten(x: Tensor, first: int, last: int) -> Tensor:
    """``x.flatten`` of every task."""
    return x.flatten(_past_tasks(first), _past_tasks(last))


def mean(x: Tensor, dims: Any, keepdim: bool) -> Tensor:
    """``x.mean`` of every task."""
    return x.mean([_past_tasks(dim) for dim in ((dims,) if isinstance(dims, int) else dims)], keepdim)


def _past_tasks(dim: int) -> int:
    return dim + 1 if dim >= 0 else dim


def reshape(x: Tensor, *sizes: Any) -> Tensor:
    """``x.reshape`` of every task."""
    return x.reshape(x.shape[0], *(sizes if isinstance(sizes[0], int) else sizes[0]))


def size(x: Tensor, dim: int | None = None) -> Any:
    """``x.size`` of one task."""
    return x.shape[1:] if dim is None else x.shape[1:][dim]


def _read_flatten(node: Node, sizes: Collection[Node]) -> Step | None:
    x, first, last = arguments(node, {"input": None, "start_dim": 0, "end_dim": -1}).values()
    return Step(flatten, (x, first, last)) if isinstance(first, int) and isinstance(last, int) else None


def _read_mean(node: Node, sizes: Collection[Node]) -> Step | None:
    x, dims, keepdim, dtype = arguments(node, {"input": None, "dim": None, "keepdim": False, "dtype": None}).values()
    return None if dims is None or dtype is not None else Step(mean, (x, dims, keepdim))


def _read_reshape(node: Node, sizes: Collection[Node]) -> Step | None:
    x, *rest = node.args
    shape = tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else tuple(rest)
    known = all(isinstance(extent, int) or extent in sizes for extent in shape)
    return Step(reshape, (x, *shape)) if shape and known and not node.kwargs else None


def _read_size(node: Node, sizes: Collection[Node]) -> Step | None:
    return None if node.kwargs else Step(size, node.args)


def _read_attribute(node: Node, sizes: Collection[Node]) -> Step | None:
    return Step(size, node.args[:1]) if node.args[1] == "shape" else None


def _read_item(node: Node, sizes: Collection[Node]) -> Step | None:
    return Step(operator.getitem, node.args) if node.args[0] in sizes else None  # of images: they would be other ones


def _read_linear(node: Node, sizes: Collection[Node]) -> Step:
    return Step(linear, tuple(arguments(node, dict.fromkeys(("input", "weight", "bias"))).values()))


def _read_block(node: Node, sizes: Collection[Node]) -> Step:
    values = arguments(node, _BLOCK)
    tensors = tuple(values.pop(name) for name in ("x", "weight", "bias", "gamma", "beta"))
    return Step(partial(conv_block_of_tasks, **values), tensors)


def _read_lstm(node: Node, sizes: Collection[Node]) -> Step:
    return Step(lstm_of_tasks, tuple(arguments(node, dict.fromkeys(_LSTM)).values()))


_READERS: dict[Any, Callable[[Node, Collection[Node]], Step | None]] = {
    conv_block: _read_block,
    lstm: _read_lstm,
    F.linear: _read_linear,
    **dict.fromkeys(("flatten", torch.flatten), _read_flatten),
    **dict.fromkeys(("mean", torch.mean), _read_mean),
    **dict.fromkeys(("view", "reshape", torch.reshape), _read_reshape),
    "size": _read_size,
    getattr: _read_attribute,
    operator.getitem: _read_item,
}

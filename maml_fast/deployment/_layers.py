"""A module of PyTorch's own layers as plain values, and back: a file of them can name nothing else, and run nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from maml_fast._arguments import Kind, flag, many, number, shown, whole

__all__ = ["build", "describe"]

Spec = dict[str, Any]

MOST_DEPTH = 16
SIZE = whole(1, 2**24)  # of a layer; its tensors, which the file holds, bound it in fact


class _Layer(NamedTuple):
    """A class, the arguments that a file may give it, and those that are always the same."""

    kind: Callable[..., nn.Module]
    arguments: Mapping[str, Kind]
    fixed: Mapping[str, Any] = {}


_PAIR = many(whole(0, 1024), length=2)
_LAYERS: Mapping[str, _Layer] = {
    "Conv2d": _Layer(
        nn.Conv2d,
        {
            "in_channels": SIZE,
            "out_channels": SIZE,
            "kernel_size": _PAIR,
            "stride": _PAIR,
            "padding": _PAIR,
            "bias": flag,
        },
    ),
    "BatchNorm2d": _Layer(nn.BatchNorm2d, {"num_features": SIZE, "eps": number(above=0)}),
    "ReLU": _Layer(nn.ReLU, {}),
    "MaxPool2d": _Layer(nn.MaxPool2d, {"kernel_size": whole(1, 1024)}),
    "AdaptiveAvgPool2d": _Layer(nn.AdaptiveAvgPool2d, {"output_size": whole(1, 1024)}),
    "Flatten": _Layer(nn.Flatten, {}),
    "RMSNorm": _Layer(
        nn.RMSNorm,
        {"normalized_shape": many(SIZE, length=1), "eps": number(above=0)},
        {"elementwise_affine": False},
    ),
    "Linear": _Layer(nn.Linear, {"in_features": SIZE, "out_features": SIZE, "bias": flag}),
}


def describe(module: nn.Module) -> Spec:
    """What :func:`build` makes a module like this one of, without its tensors.

    Raises:
        ValueError: it holds a layer of another kind, or with other settings, than a file can name.
    """
    spec = _described(module, "")
    if repr(build(spec)) != repr(module):
        raise ValueError("a layer of the model has settings that the file format has no name for")
    return spec


def build(spec: Any, depth: int = 0) -> nn.Module:
    """The module that was described, with tensors that have shapes and no memory: ``load_state_dict(assign=True)``.

    Raises:
        TypeError, ValueError: the description is damaged, or names what is no layer.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kind"), str):
        raise ValueError(f"a layer must be described by its kind, got {shown(spec)}")
    given = {name: value for name, value in spec.items() if name != "kind"}
    if spec["kind"] == "Sequential":
        parts = given.get("parts")
        if not isinstance(parts, Mapping) or len(given) > 1 or depth == MOST_DEPTH:
            raise ValueError(f"a Sequential must be described by its parts, got {shown(spec)}")
        return nn.Sequential(OrderedDict((str(name), build(part, depth + 1)) for name, part in parts.items()))
    layer = _LAYERS.get(spec["kind"])
    if layer is None or given.keys() != layer.arguments.keys():
        raise ValueError(f"no layer of a model: {shown(spec)}")
    arguments = {name: kind(name, given[name]) for name, kind in layer.arguments.items()}
    with torch.device("meta"):
        return layer.kind(**arguments, **layer.fixed)


def _described(module: nn.Module, where: str) -> Spec:
    kind = type(module).__name__
    if type(module) is nn.Sequential:
        parts = {name: _described(part, f"{where}.{name}") for name, part in module.named_children()}
        return {"kind": kind, "parts": parts}
    layer = _LAYERS.get(kind)
    if layer is None or type(module) is not layer.kind:
        raise ValueError(f"{where.lstrip('.') or 'the model'} is a {kind}, which the file format has no name for")
    return {"kind": kind, **{name: _argument(module, name) for name in layer.arguments}}


def _argument(module: nn.Module, name: str) -> Any:
    value = getattr(module, name)
    if name == "bias":
        return value is not None
    return list(value) if isinstance(value, tuple) else value

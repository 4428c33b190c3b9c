"""Describe modules of PyTorch's own layers as plain values, and build them again; no other layers can be named."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from maml_fast._arguments import Kind, flag, int_from, many, number, shown

__all__ = ["build", "describe"]

Spec = dict[str, Any]

MOST_DEPTH = 16
SIZE = int_from(1, 2**24)  # of a layer; the actual bound is the size of its tensors, which the file holds


class _Layer(NamedTuple):
    """A layer class, the arguments that a file sets, and the arguments that are always the same."""

    kind: Callable[..., nn.Module]
    arguments: Mapping[str, Kind]
    fixed: Mapping[str, Any] = {}


_PAIR = many(int_from(0, 1024), length=2)
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
    "MaxPool2d": _Layer(nn.MaxPool2d, {"kernel_size": int_from(1, 1024)}),
    "AdaptiveAvgPool2d": _Layer(nn.AdaptiveAvgPool2d, {"output_size": int_from(1, 1024)}),
    "Flatten": _Layer(nn.Flatten, {}),
    "RMSNorm": _Layer(
        nn.RMSNorm,
        {"normalized_shape": many(SIZE, length=1), "eps": number(above=0)},
        {"elementwise_affine": False},
    ),
    "Linear": _Layer(nn.Linear, {"in_features": SIZE, "out_features": SIZE, "bias": flag}),
}


def describe(module: nn.Module) -> Spec:
    """Describe a module's structure, without its tensors, as plain values that :func:`build` takes.

    Raises:
        ValueError: if the module has a layer, or a setting of a layer, that the file format can't store.
    """
    spec = _described(module, "")
    if repr(build(spec)) != repr(module):
        raise ValueError("a layer of the model has settings that the file format can't store")
    return spec


def build(spec: Any, depth: int = 0) -> nn.Module:
    """Build the described module on the meta device; ``load_state_dict(assign=True)`` gives it its tensors.

    Raises:
        TypeError, ValueError: if the description is damaged, or names an unknown layer.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kind"), str):
        raise ValueError(f"a layer must be described by its kind, got {shown(spec)}")
    entries = {name: value for name, value in spec.items() if name != "kind"}
    if spec["kind"] == "Sequential":
        parts = entries.get("parts")
        if not isinstance(parts, Mapping) or len(entries) > 1 or depth == MOST_DEPTH:
            raise ValueError(f"a Sequential must be described by its parts, got {shown(spec)}")
        return nn.Sequential(OrderedDict((str(name), build(part, depth + 1)) for name, part in parts.items()))
    layer = _LAYERS.get(spec["kind"])
    if layer is None or entries.keys() != layer.arguments.keys():
        raise ValueError(f"not a layer that a model may have: {shown(spec)}")
    arguments = {name: kind(name, entries[name]) for name, kind in layer.arguments.items()}
    with torch.device("meta"):
        return layer.kind(**arguments, **layer.fixed)


def _described(module: nn.Module, where: str) -> Spec:
    kind = type(module).__name__
    if type(module) is nn.Sequential:
        parts = {name: _described(part, f"{where}.{name}") for name, part in module.named_children()}
        return {"kind": kind, "parts": parts}
    layer = _LAYERS.get(kind)
    if layer is None or type(module) is not layer.kind:
        raise ValueError(f"{where.lstrip('.') or 'the model'} is a {kind}, which the file format can't store")
    return {"kind": kind, **{name: _argument(module, name) for name in layer.arguments}}


def _argument(module: nn.Module, name: str) -> Any:
    value = getattr(module, name)
    if name == "bias":
        return value is not None
    return list(value) if isinstance(value, tuple) else value

"""The layers that a config of dragen1860's MAML-Pytorch may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maml_fast._arguments import many, shown

__all__ = ["BATCH_NORM", "RUN", "SIZES", "Config", "Options", "check_config"]

Options = Sequence[Any]
Config = Sequence[tuple[str, Options]]

BATCH_NORM = "bn"

# The shape of the weight and the length of the bias, from the layer's options.
SIZES: Mapping[str, Callable[[Options], tuple[Options, int]]] = {
    "conv2d": lambda o: (o[:4], o[0]),
    "convt2d": lambda o: (o[:4], o[1]),
    "linear": lambda o: (o[:2], o[0]),
    BATCH_NORM: lambda o: (o[:1], o[0]),
}

# The output for an input, [weight, bias] and the layer's options. Batch norm is missing: it needs statistics too.
RUN: Mapping[str, Callable[[Tensor, Sequence[Tensor], Options], Tensor]] = {
    "conv2d": lambda x, wb, o: F.conv2d(x, wb[0], wb[1], o[4], o[5]),
    "convt2d": lambda x, wb, o: F.conv_transpose2d(x, wb[0], wb[1], o[4], o[5]),
    "linear": lambda x, wb, o: F.linear(x, wb[0], wb[1]),
    "relu": lambda x, wb, o: F.relu(x),
    "leakyrelu": lambda x, wb, o: F.leaky_relu(x, o[0]),
    "tanh": lambda x, wb, o: torch.tanh(x),
    "sigmoid": lambda x, wb, o: torch.sigmoid(x),
    "max_pool2d": lambda x, wb, o: F.max_pool2d(x, *o[:3]),
    "avg_pool2d": lambda x, wb, o: F.avg_pool2d(x, *o[:3]),
    "upsample": lambda x, wb, o: F.interpolate(x, scale_factor=o[0]),
    "flatten": lambda x, wb, o: x.flatten(1),
    "reshape": lambda x, wb, o: x.reshape(len(x), *o),
}

_N_OPTIONS = {"conv2d": 6, "convt2d": 6, "linear": 2, BATCH_NORM: 1, "leakyrelu": 1, "upsample": 1, "reshape": 1}
_N_OPTIONS |= {"max_pool2d": 3, "avg_pool2d": 3}


def check_config(name: str, value: Any) -> Config:
    """Accept a sequence of pairs: the layer's name, and the list of its options."""
    return many(_check_layer)(name, value)


def _check_layer(name: str, layer: Any) -> tuple[str, Options]:
    if not (isinstance(layer, tuple | list) and len(layer) == 2 and isinstance(layer[1], tuple | list)):
        raise TypeError(f"{name} must be a pair of a layer and its options, as ('relu', [True]), got {shown(layer)}")
    kind, options = layer
    if kind not in RUN and kind != BATCH_NORM:
        raise ValueError(f"{name} must be one of the layers {', '.join((*RUN, BATCH_NORM))}; got {shown(kind)}")
    wanted = _N_OPTIONS.get(kind, 0)
    if len(options) < wanted:
        raise ValueError(f"{name}: {kind} takes {wanted} options, got {shown(options)}")
    return kind, options

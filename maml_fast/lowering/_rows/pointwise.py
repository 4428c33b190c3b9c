"""Elementwise functions of one tensor."""

from __future__ import annotations

import math
from typing import Any

import torch

from maml_fast.lowering._numbers import Function
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import NotNativeError, View
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call

aten = torch.ops.aten

_PLAIN: dict[Any, tuple[Function, tuple[float, ...]]] = {
    aten.relu: (Function.LEAKY_RELU, (0.0,)),
    aten.relu6: (Function.CLAMP, (0.0, 6.0, 0.0)),
    aten.tanh: (Function.TANH, ()),
    aten.sigmoid: (Function.SIGMOID, ()),
    aten.exp: (Function.EXP, ()),
    aten.log: (Function.LOG, ()),
    aten.sqrt: (Function.SQRT, ()),
    aten.reciprocal: (Function.RECIPROCAL, ()),
    aten.square: (Function.SQUARE, ()),
    aten.sin: (Function.SINE, ()),
    aten.cos: (Function.COSINE, ()),
    aten.silu: (Function.SILU, ()),
    aten.mish: (Function.MISH, ()),
    aten.hardswish: (Function.HARD_SWISH, ()),
    aten.abs: (Function.ABS, ()),
    aten.neg: (Function.AFFINE, (-1.0, 0.0)),
}


@row(*_PLAIN)
def _plain(w: Writer, call: Call, a: Arguments) -> View:
    function, parameters = _PLAIN[call.operation.overloadpacket]
    return w.pointwise(function, a["self"], *parameters)


@row(aten.leaky_relu)
def _leaky_relu(w: Writer, call: Call, a: Arguments) -> View:
    if a["negative_slope"] < 0:
        raise NotNativeError("leaky_relu with a negative slope has no native form")
    return w.pointwise(Function.LEAKY_RELU, a["self"], a["negative_slope"])


@row(aten.hardtanh)
def _hardtanh(w: Writer, call: Call, a: Arguments) -> View:
    return w.pointwise(Function.CLAMP, a["self"], a["min_val"], a["max_val"], 0.0)


@row(aten.clamp, aten.clamp_min, aten.clamp_max)
def _clamp(w: Writer, call: Call, a: Arguments) -> View:
    ends = [a.get("min"), a.get("max")]
    if any(isinstance(end, View) for end in ends):
        raise NotNativeError("clamp with tensors as bounds has no native form")
    least, most = (-math.inf if ends[0] is None else ends[0]), (math.inf if ends[1] is None else ends[1])
    return w.pointwise(Function.CLAMP, a["self"], least, most, 1.0)


@row(aten.elu, aten.celu, aten.selu)
def _elu(w: Writer, call: Call, a: Arguments) -> View:
    """ELU, and CELU and SELU where PyTorch records them as operations of their own rather than as ELUs."""
    packet, alpha = call.operation.overloadpacket, a.get("alpha", 1.0)
    scale, rate = a.get("scale", 1.0), a.get("input_scale", 1.0)
    if packet is aten.celu:
        scale, rate = 1.0, 1.0 / alpha
    elif packet is aten.selu:
        alpha, scale, rate = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0
    if min(alpha, scale, rate) <= 0:
        raise NotNativeError("elu has a native form only with positive parameters")
    return w.pointwise(Function.ELU, a["self"], alpha * scale, scale, rate)


@row(aten.gelu)
def _gelu(w: Writer, call: Call, a: Arguments) -> View:
    return w.pointwise(Function.TANH_GELU if a["approximate"] == "tanh" else Function.GELU, a["self"])


@row(aten.softplus)
def _softplus(w: Writer, call: Call, a: Arguments) -> View:
    return w.pointwise(Function.SOFTPLUS, a["self"], a["beta"], a["threshold"])


@row(aten.log_sigmoid_forward)
def _log_sigmoid(w: Writer, call: Call, a: Arguments) -> list[View | None]:
    return [w.pointwise(Function.LOG_SIGMOID, a["self"]), None]


@row(aten.rsqrt)
def _rsqrt(w: Writer, call: Call, a: Arguments) -> View:
    return w.pointwise(Function.RECIPROCAL, w.pointwise(Function.SQRT, a["self"]))


@row(aten.pow)
def _pow(w: Writer, call: Call, a: Arguments) -> View:
    powers = {0.5: Function.SQRT, 2: Function.SQUARE, -1: Function.RECIPROCAL}
    function = powers.get(a["exponent"]) if isinstance(a["exponent"], (int, float)) else None
    if function is None or not isinstance(a["self"], View):
        raise NotNativeError("pow has a native form only for the exponents 2, 0.5 and -1")
    return w.pointwise(function, a["self"])

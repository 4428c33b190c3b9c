"""Elementwise operations, broadcast over operands of different ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maml_fast.program._operations.table import Call, Step, Value, aten, row, with_constants

_NAMES = """
    abs acos acosh add addcdiv addcmul alias asin asinh atan atan2 atanh bernoulli bitwise_and bitwise_not
    bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min copysign cos cosh deg2rad detach div elu empty_like
    eq erf erfc erfinv exp exp2 expm1 fill floor floor_divide fmod frac full_like gelu ge gt hardshrink hardsigmoid
    hardswish hardtanh hypot isinf isnan le leaky_relu lerp lgamma log log10 log1p log2 log_sigmoid_forward
    logaddexp logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul
    native_dropout ne neg nan_to_num ones_like pow _prelu_kernel reciprocal relu relu6 remainder round rsqrt rsub
    selu sgn sigmoid sign silu sin sinc sinh softplus softshrink sqrt square sub tan tanh threshold trunc where
    xlogy zeros_like
"""


@row(*(getattr(aten, name) for name in _NAMES.split()))
def _pointwise(call: Call, model_input: Value) -> Step | None:
    operands = call.operands
    if not _promotes_alike(operands):
        return None
    rank = max(len(value.shape) for value in operands)
    missing = [rank - len(value.shape) for value in operands]
    # A memory format affects no values, and the recorded one does not fit a tensor with a dimension of tasks.
    run = with_constants(call, **({"memory_format": None} if "memory_format" in call.arguments else {}))
    if not any(missing):
        return Step(run, operands)

    def broadcast(*tensors: Tensor) -> Any:
        return run(*map(with_dimensions, tensors, missing))

    return Step(broadcast, operands)


@row(aten.clone, aten.contiguous)
def _copy(call: Call, model_input: Value) -> Step:
    return Step(Tensor.clone, call.operands)


@row(aten._to_copy)
def _convert(call: Call, model_input: Value) -> Step | None:
    if call.arguments["device"] is not None or call.arguments["layout"] not in (None, torch.strided):
        return None
    dtype = call.result.dtype
    return Step(lambda x: x.to(dtype, copy=True), call.operands)


def with_dimensions(x: Tensor, missing: int) -> Tensor:
    """Insert ``missing`` dimensions of size 1 after the first one, T."""
    return x.view(x.shape[0], *(1,) * missing, *x.shape[1:]) if missing else x


def _promotes_alike(operands: list[Value]) -> bool:
    """Whether type promotion gives the same result with a dimension of tasks.

    It does not if a zero-dimensional operand has another dtype, because PyTorch gives such operands lower priority.
    """
    types, ranks = {value.dtype for value in operands}, {len(value.shape) for value in operands}
    return len(types) == 1 or 0 not in ranks or ranks == {0}

"""Sums, means, extrema and other operations along whole dimensions."""

from __future__ import annotations

from typing import Any

import torch

from maml_fast.program._operations.table import Call, Step, Value, aten, row, shifted, with_constants

_OVER_ONE = ("_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "max", "min", "argmax", "argmin", "sort")
_OVER_SEVERAL = ("sum", "mean", "amax", "amin", "var", "var_mean", "std", "logsumexp", "linalg_vector_norm", "norm")


@row(*(getattr(aten, name) for name in _OVER_ONE))
def _over_one(call: Call, model_input: Value) -> Step | None:
    if call.arguments.get("dim") is None or len(call.operands) != 1 or not call.operands[0].shape:
        return None
    return Step(with_constants(call, dim=shifted(call.arguments["dim"])), call.operands)


@row(*(getattr(aten, name) for name in _OVER_SEVERAL))
def _over_several(call: Call, model_input: Value) -> Step | None:
    x, *others = call.operands
    if others or not x.shape:
        return None
    every = list(range(1, len(x.shape) + 1))
    if "dim" not in call.arguments:
        return _over_all(call, every)
    dims = call.arguments["dim"]
    chosen = [dims] if isinstance(dims, int) else list(dims or ())
    return Step(with_constants(call, dim=[shifted(dim) for dim in chosen] or every), [x])


def _over_all(call: Call, every: list[int]) -> Step | None:
    """The overloads without ``dim``: ``x.sum()``, ``x.mean()`` and ``x.norm()``."""
    if call.operation.overloadpacket is aten.norm:
        power = call.arguments["p"]
        return Step(lambda x: torch.linalg.vector_norm(x, 2 if power is None else power, every), call.operands)
    function: Any = {aten.sum: aten.sum.dim_IntList, aten.mean: aten.mean.dim}.get(call.operation.overloadpacket)
    if function is None:
        return None
    dtype = call.arguments["dtype"]
    return Step(lambda x: function(x, every, False, dtype=dtype), call.operands)

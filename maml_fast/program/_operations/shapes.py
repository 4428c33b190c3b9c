"""Operations that only rearrange elements, and factory functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maml_fast.program._operations.pointwise import with_dimensions
from maml_fast.program._operations.table import Call, Step, Value, aten, row, shifted, with_constants


@row(
    *(aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.unsqueeze, aten.squeeze, aten.view_copy),
    *(aten.flatten, aten.unflatten),
)
def _reshape(call: Call, model_input: Value) -> Step | None:
    if call.result.dtype != call.operands[0].dtype:
        return None
    shape = tuple(call.result.shape)
    return Step(lambda x: x.reshape(len(x), *shape), call.operands)


@row(aten.expand, aten.repeat)
def _expand(call: Call, model_input: Value) -> Step:
    missing = len(call.result.shape) - len(call.operands[0].shape)
    if call.operation.overloadpacket is aten.repeat:
        times = call.arguments["repeats"]
        return Step(lambda x: with_dimensions(x, missing).repeat(1, *times), call.operands)
    shape = tuple(call.result.shape)
    return Step(lambda x: with_dimensions(x, missing).expand(len(x), *shape), call.operands)


@row(aten.t)
def _t(call: Call, model_input: Value) -> Step:
    return Step(lambda x: x.mT if x.dim() == 3 else x, call.operands)


@row(aten.permute)
def _permute(call: Call, model_input: Value) -> Step:
    dims = [0, *(dim % len(call.result.shape) + 1 for dim in call.arguments["dims"])]
    return Step(lambda x: x.permute(dims), call.operands)


@row(
    *(aten.transpose, aten.select, aten.slice, aten.split, aten.split_with_sizes, aten.unbind, aten.unsafe_split),
    *(aten.unsafe_split_with_sizes, aten.diagonal, aten.narrow, aten.unfold),
)
def _with_dims(call: Call, model_input: Value) -> Step:
    names = ("dim", "dim0", "dim1", "dim2", "dimension")
    dims = {name: shifted(value) for name, value in call.arguments.items() if name in names}
    return Step(with_constants(call, **dims), call.operands)


@row(aten.flip, aten.roll)
def _with_list_of_dims(call: Call, model_input: Value) -> Step | None:
    dims = [shifted(dim) for dim in call.arguments["dims"]]
    return Step(with_constants(call, dims=dims), call.operands) if dims else None


@row(aten.cat, aten.stack)
def _concatenated(call: Call, model_input: Value) -> Step | None:
    ranks = {len(value.shape) for value in call.operands}
    if len(ranks) != 1:  # torch.cat skips empty 1-d tensors
        return None
    dim = shifted(call.arguments["dim"])
    join = torch.cat if call.operation.overloadpacket is aten.cat else torch.stack
    return Step(lambda *tensors: join(tensors, dim), call.operands)


@row(aten.constant_pad_nd, aten.tril, aten.triu)
def _of_last_dimensions(call: Call, model_input: Value) -> Step:
    return Step(with_constants(call), call.operands)


@row(
    *(aten.zeros, aten.ones, aten.full, aten.empty, aten.arange, aten.linspace, aten.scalar_tensor, aten.eye),
    *(aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty),
)
def _factory(call: Call, model_input: Value) -> Step | None:
    shape, dtype = tuple(call.result.shape), call.result.dtype
    name = call.operation.overloadpacket.__name__.removeprefix("new_").replace("empty", "zeros")
    sizes = [value for each, value in call.arguments.items() if each not in _OPTIONS]
    if name in ("zeros", "ones", "full"):
        fill: Any = {"zeros": 0, "ones": 1}.get(name, call.arguments.get("fill_value"))
        return Step(lambda x: x.new_full((1, *shape), fill, dtype=dtype).expand(len(x), *shape), [model_input])
    make = getattr(torch, name)

    def make_for_all(x: Tensor) -> Tensor:
        return make(*sizes, dtype=dtype, device=x.device).expand(len(x), *shape)

    return Step(make_for_all, [model_input])


@row(aten.lift_fresh, aten.lift_fresh_copy)
def _constant(call: Call, model_input: Value) -> Step:
    """``torch.tensor(...)`` as a constant; on a tensor that the recording knows, the operation is a copy."""
    if "constant" not in call.arguments:
        return Step(Tensor.clone, call.operands)
    constant, shape = call.arguments["constant"], tuple(call.result.shape)
    return Step(lambda x: constant.to(x.device).expand(len(x), *shape), [model_input])


_OPTIONS = ("dtype", "layout", "device", "pin_memory", "memory_format", "self")

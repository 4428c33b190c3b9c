"""Operations that only rearrange elements: views of a buffer, and copies of several buffers into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from maml_fast.lowering._numbers import Function
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import NotNativeError, View
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call, with_constants

aten = torch.ops.aten


@row(
    *(aten.t, aten.transpose, aten.permute, aten.select, aten.slice, aten.narrow, aten.diagonal, aten.unfold),
    *(aten.unsqueeze, aten.squeeze, aten.expand, aten.alias, aten.unbind, aten.split, aten.split_with_sizes),
)
def _view(w: Writer, call: Call, a: Arguments) -> Sequence[View | None]:
    x = a["self"]
    views = with_constants(call)(x.tensor)
    return [View(x.buffer, each) for each in (views if isinstance(views, (list, tuple)) else [views])]


@row(aten.unsafe_split, aten.unsafe_split_with_sizes)
def _unsafe_split(w: Writer, call: Call, a: Arguments) -> Sequence[View | None]:
    x, dim = a["self"], a["dim"]
    sizes = [value.shape[dim] for value in call.results if value is not None]
    return [View(x.buffer, each) for each in x.tensor.split(sizes, dim)]


@row(aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.flatten, aten.unflatten)
def _reshape(w: Writer, call: Call, a: Arguments) -> View:
    x, shape = a["self"], call.result.shape
    try:
        return x.map(lambda tensor: tensor.view(shape))
    except RuntimeError:  # the strides allow no such view
        return w.contiguous(x).map(lambda tensor: tensor.view(shape))


@row(aten.clone, aten.contiguous, aten.lift_fresh)
def _same(w: Writer, call: Call, a: Arguments) -> View:
    """A copy can be the tensor itself, because no operation writes to its operands."""
    if "self" not in a:
        raise NotNativeError("a tensor that forward makes from Python numbers has no native form")
    return a["self"]


@row(aten.detach)
def _detach(w: Writer, call: Call, a: Arguments) -> View:
    if a["self"].buffer in w.depends:
        raise NotNativeError("detach has no native form")
    return a["self"]


@row(aten.repeat)
def _repeat(w: Writer, call: Call, a: Arguments) -> View:
    x, times = a["self"], a["repeats"]
    missing = len(times) - len(x.shape)
    shape = [1] * missing + list(x.shape)
    apart = [number for pair in zip(times, shape, strict=True) for number in pair]  # [times, size, times, size, ...]
    beside = [number for size in shape for number in (1, size)]
    spread = x.map(lambda tensor: tensor[(None,) * missing].view(beside).expand(apart))
    return w.contiguous(spread).map(lambda tensor: tensor.view(call.result.shape))


@row(aten.cat)
def _cat(w: Writer, call: Call, a: Arguments) -> View:
    parts, dim = a["tensors"], a["dim"]
    result = w.new(call.result.shape, w.order_of(parts[0]))
    begin = 0
    for part in parts:
        length = part.shape[dim]
        w.copy(part, result.map(lambda tensor, at=begin, n=length: tensor.narrow(dim, at, n)))  # type: ignore[misc]
        begin += length
    return result


@row(aten.stack)
def _stack(w: Writer, call: Call, a: Arguments) -> View:
    result = w.new(call.result.shape)
    for i, part in enumerate(a["tensors"]):
        w.copy(part, result.map(lambda tensor, at=i: tensor.select(a["dim"], at)))  # type: ignore[misc]
    return result


@row(aten.constant_pad_nd)
def _pad(w: Writer, call: Call, a: Arguments) -> View:
    x, pad = a["self"], a["pad"]
    if a["value"] != 0 or min(pad) < 0:
        raise NotNativeError("padding has a native form only with zeros, and not with negative sizes")
    return padded(w, x, {len(x.shape) - 1 - i: (pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)})


def padded(w: Writer, x: View, margins: dict[int, tuple[int, int]]) -> View:
    """Pad x with zeros; ``margins`` maps a dimension to the sizes before and after it."""
    shape = [size + sum(margins.get(dim, (0, 0))) for dim, size in enumerate(x.shape)]
    result = w.new(shape, w.order_of(x))
    middle = result
    for dim, (before, _) in margins.items():
        middle = middle.map(lambda t, dim=dim, at=before: t.narrow(dim, at, x.shape[dim]))  # type: ignore[misc]
    w.copy(x, middle, clear=True)
    return result


@row(
    *(aten.zeros, aten.ones, aten.full, aten.zeros_like, aten.ones_like, aten.full_like),
    *(aten.new_zeros, aten.new_ones, aten.new_full),
)
def _filled(w: Writer, call: Call, a: Arguments) -> View:
    """A constant: an empty copy clears the buffer to 0, and a pointwise function then adds a nonzero value."""
    name = call.operation.overloadpacket.__name__
    value = 0 if "zeros" in name else 1 if "ones" in name else a["fill_value"]
    if isinstance(value, View):
        raise NotNativeError("full with a tensor as value has no native form")
    shape = call.result.shape
    result = w.new(shape)
    nothing = View(w.input, torch.empty_strided((0,), (1,), device="meta"))
    w.copy(nothing, result.map(lambda tensor: tensor.flatten()[:0]), clear=True)
    return w.pointwise(Function.AFFINE, result, 0, value) if value else result

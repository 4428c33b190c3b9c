"""Sums, means and softmax along dimensions."""

from __future__ import annotations

from math import prod

import torch

from maml_fast.lowering._numbers import Kind
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import View, identity
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call

__all__ = ["total"]

aten = torch.ops.aten


def total(w: Writer, x: View, *, mean: bool = False) -> View:
    """The sum or mean of all elements, as a zero-dimensional tensor."""
    count = x.shape.numel()
    return w.write(Kind.SUM, [w.contiguous(x, w.order_of(x))], w.new(()), [1, count, 1], [1 / count if mean else 1.0])


@row(aten.sum, aten.mean)
def _sum(w: Writer, call: Call, a: Arguments) -> View:
    x, dims = a["self"], a.get("dim")
    rank = len(x.shape)
    over = sorted(dim % rank for dim in ([dims] if isinstance(dims, int) else dims or range(rank)))
    x, order = _with_adjacent_dims(w, x, over)
    kept = [dim for dim in order if dim not in over]
    shape = [size for dim, size in enumerate(x.shape) if dim not in over]
    places = [sum(other < dim for other in kept) for dim in kept]  # memory order among the kept dimensions
    first = next((place for place, dim in enumerate(order) if dim in over), 0)
    lengths = [x.shape[dim] for dim in order]
    middle = prod(x.shape[dim] for dim in over)
    numbers = [prod(lengths[:first]), middle, prod(lengths[first + len(over) :])]
    factor = 1 / middle if call.operation.overloadpacket is aten.mean else 1.0
    result = w.write(Kind.SUM, [x], w.new(shape, places), numbers, [factor])
    return result.map(lambda tensor: tensor.view(call.result.shape)) if call.result.shape != result.shape else result


def _with_adjacent_dims(w: Writer, x: View, over: list[int]) -> tuple[View, tuple[int, ...]]:
    """x as a whole buffer in which the dimensions ``over`` are adjacent, and its order of dimensions."""
    order = w.order_of(x)
    places = sorted(order.index(dim) for dim in over) if order is not None else []
    if order is None or places != list(range(places[0], places[0] + len(places))):
        order = (*(dim for dim in identity(len(x.shape)) if dim not in over), *over)
    return w.contiguous(x, order), order


@row(aten._softmax, aten._log_softmax)
def _softmax(w: Writer, call: Call, a: Arguments) -> View:
    x, dim = a["self"], a["dim"] % len(a["self"].shape)
    order = (*(each for each in identity(len(x.shape)) if each != dim), dim)
    columns = x.shape[dim]
    is_log = call.operation.overloadpacket is aten._log_softmax
    numbers = [x.shape.numel() // columns, columns, is_log]
    return w.write(Kind.SOFTMAX, [w.contiguous(x, order)], w.new(x.shape, order), numbers)

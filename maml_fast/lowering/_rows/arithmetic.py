"""Sums and products of two tensors, or of a tensor and a number."""

from __future__ import annotations

from math import prod

import torch

from maml_fast.lowering._numbers import Function, Kind
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import View, identity
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call

__all__ = ["add", "multiply"]

aten = torch.ops.aten


@row(aten.add)
def _add(w: Writer, call: Call, a: Arguments) -> View:
    x, y, alpha = a["self"], a["other"], a["alpha"]
    return add(w, x, y, 1, alpha) if isinstance(y, View) else w.pointwise(Function.AFFINE, x, 1, alpha * y)


@row(aten.sub)
def _sub(w: Writer, call: Call, a: Arguments) -> View:
    x, y, alpha = a["self"], a["other"], a["alpha"]
    return add(w, x, y, 1, -alpha) if isinstance(y, View) else w.pointwise(Function.AFFINE, x, 1, -alpha * y)


@row(aten.rsub)
def _rsub(w: Writer, call: Call, a: Arguments) -> View:
    x, y, alpha = a["self"], a["other"], a["alpha"]
    return add(w, y, x, 1, -alpha) if isinstance(y, View) else w.pointwise(Function.AFFINE, x, -alpha, y)


@row(aten.mul)
def _mul(w: Writer, call: Call, a: Arguments) -> View:
    x, y = a["self"], a["other"]
    return multiply(w, x, y) if isinstance(y, View) else w.pointwise(Function.AFFINE, x, y, 0)


@row(aten.div)
def _div(w: Writer, call: Call, a: Arguments) -> View:
    x, y = a["self"], a["other"]
    if isinstance(y, View):
        return multiply(w, x, w.pointwise(Function.RECIPROCAL, y))
    return w.pointwise(Function.AFFINE, x, 1 / y, 0)


def add(w: Writer, x: View, y: View, of_x: float, of_y: float) -> View:
    """``of_x * x + of_y * y`` with broadcasting."""
    swapped = x.shape.numel() < y.shape.numel()
    larger, smaller = (y, x) if swapped else (x, y)
    larger, smaller, numbers = _broadcast_pair(w, larger, smaller)
    result = w.new(larger.shape, w.order_of(larger))
    return w.write(Kind.ADD, [larger, smaller], result, numbers, (of_y, of_x) if swapped else (of_x, of_y))


def multiply(w: Writer, x: View, y: View) -> View:
    """``x * y`` with broadcasting."""
    larger, smaller, numbers = _broadcast_pair(w, *((y, x) if x.shape.numel() < y.shape.numel() else (x, y)))
    return w.write(Kind.MULTIPLY, [larger, smaller], w.new(larger.shape, w.order_of(larger)), numbers)


def _broadcast_pair(w: Writer, larger: View, smaller: View) -> tuple[View, View, list[int]]:
    """Both operands as whole buffers, and the sizes outer, middle and inner; the smaller operand has size middle."""
    shape = torch.broadcast_shapes(larger.shape, smaller.shape)
    rank = len(shape)
    larger = larger.map(lambda x: x.expand(shape))
    smaller = smaller.map(lambda y: y[(None,) * (rank - y.dim())])
    order = w.order_of(larger) or w.order_of(smaller.map(lambda y: y.expand(shape))) or identity(rank)
    larger = w.contiguous(larger, order)
    present = [place for place, dim in enumerate(order) if smaller.shape[dim] > 1]
    first, last = (present[0], present[-1]) if present else (0, -1)
    if any(smaller.shape[order[place]] != shape[order[place]] for place in range(first, last + 1)):
        smaller = smaller.map(lambda y: y.expand(shape))
        first, last = 0, rank - 1
    lengths = [shape[dim] for dim in order]
    numbers = [prod(lengths[:first]), prod(lengths[first : last + 1]), prod(lengths[last + 1 :])]
    return larger, w.contiguous(smaller, order), numbers

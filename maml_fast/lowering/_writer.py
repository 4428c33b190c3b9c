"""Writes native operations, and what must be copied for them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from maml_fast.lowering._numbers import ABSENT, Function, Kind, Operation
from maml_fast.lowering._views import NotNativeError, View, dense, identity

__all__ = ["Writer"]


class Writer:
    """A program that is being written.

    Attributes:
        sizes: numbers in every buffer.
        operations: so far.
        depends: the buffers that depend on parameters.
        input, targets: the buffers of the inputs and of the targets.
        counts: buffers that would hold 0, 1, 2, ..., and are not computed.
        picks_of: of how many the targets pick one.
        takes_whole: whether the input's numbers must be whole.
        entries: of the smallest table that they are indices of.
    """

    def __init__(self) -> None:
        self.input = self.targets = ABSENT
        self.counts: set[int] = set()
        self.picks_of: int | None = None
        self.takes_whole = False
        self.entries: int | None = None
        self.sizes: list[int] = []
        self.operations: list[Operation] = []
        self.depends: set[int] = set()
        self._copies: dict[tuple[object, ...], View] = {}

    def new(self, shape: Sequence[int], order: Sequence[int] | None = None) -> View:
        """A buffer for a result of this shape."""
        self.sizes.append(prod(shape))
        return dense(len(self.sizes) - 1, shape, identity(len(shape)) if order is None else order)

    def write(
        self,
        kind: Kind,
        operands: Sequence[View | None],
        result: View,
        numbers: Sequence[int],
        factors: Sequence[float] = (),
    ) -> View:
        """Append an operation whose operands are whole buffers; return its result."""
        buffers = tuple(ABSENT if each is None else each.buffer for each in operands)
        if self.counts.intersection(buffers):
            raise NotNativeError("arange has a native form as an index alone")
        self.operations.append(
            Operation(kind, buffers, result.buffer, tuple(map(int, numbers)), tuple(map(float, factors)))
        )
        if self.depends.intersection(buffers):
            self.depends.add(result.buffer)
        return result

    def lying(self, view: View, order: Sequence[int] | None = None) -> View:
        """The same tensor as all of a buffer, in this order; a copy if it does not lie so yet."""
        order = identity(len(view.shape)) if order is None else tuple(order)
        if view.lies(order, self.sizes[view.buffer]):
            return view
        key = (view.buffer, view.shape, view.tensor.stride(), view.tensor.storage_offset(), order)
        if key not in self._copies:
            copy = self.new(view.shape, order)
            self.copy(view, copy)
            self._copies[key] = copy
        return self._copies[key]

    def order_of(self, view: View) -> tuple[int, ...] | None:
        """The order in which it is all of its buffer; ``None`` if it is not."""
        strides = view.tensor.stride()
        order = tuple(sorted(identity(len(view.shape)), key=lambda dim: (-strides[dim], dim)))
        return order if view.lies(order, self.sizes[view.buffer]) else None

    def copy(self, source: View, dest: View, *, clear: bool = False) -> None:
        """Copy a tensor to one of its shape in another buffer; with ``clear`` all else there becomes 0."""
        dims = _dims(source, dest)
        is_all = self.order_of(source) is not None
        offsets = int(source.tensor.storage_offset()), int(dest.tensor.storage_offset())
        numbers = [self.sizes[source.buffer], is_all, clear, self.sizes[dest.buffer], *offsets]
        self.write(Kind.COPY, [source], dest, numbers + [number for dim in dims for number in dim])

    def pointwise(self, function: Function, x: View, *parameters: float) -> View:
        """``function`` of every number, in the order in which x lies."""
        order = self.order_of(x)
        x = self.lying(x, order)
        result = self.new(x.shape, order)
        return self.write(Kind.POINTWISE, [x], result, [function, x.shape.numel()], parameters)


def _dims(source: View, dest: View) -> list[tuple[int, int, int]]:
    """Sizes and strides of a copy, as few dimensions as possible, by the order of the destination."""
    dims = zip(source.shape, source.tensor.stride(), dest.tensor.stride(), strict=True)
    merged: list[tuple[int, int, int]] = []
    for size, source_stride, dest_stride in sorted((dim for dim in dims if dim[0] != 1), key=lambda dim: -dim[2]):
        if merged:
            outer, outer_source, outer_dest = merged[-1]
            if (outer_source, outer_dest) == (size * source_stride, size * dest_stride):
                merged[-1] = outer * size, source_stride, dest_stride
                continue
        merged.append((size, source_stride, dest_stride))
    return merged or [(1, 1, 1)]

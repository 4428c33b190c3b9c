"""Appends native operations to a program, and the copies that they need."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from maml_fast.lowering._numbers import ABSENT, Function, Kind, Operation
from maml_fast.lowering._views import NotNativeError, View, dense, identity

__all__ = ["Writer"]


class Writer:
    """A program under construction.

    Attributes:
        sizes: the number of elements of every buffer.
        operations: the operations so far.
        depends: the buffers that depend on parameters.
        input, targets: the buffers of the inputs and of the targets.
        aranges: buffers that stand for 0, 1, 2, ...; no operation computes them.
        n_choices: the smallest dimension that is indexed by labels; labels must be below it.
        takes_whole: whether the inputs must be integers.
        entries: the size of the smallest embedding table that the inputs index.
        n_draws: the number of operations that draw random numbers.
    """

    def __init__(self) -> None:
        self.input = self.targets = ABSENT
        self.aranges: set[int] = set()
        self.n_choices: int | None = None
        self.takes_whole = False
        self.entries: int | None = None
        self.n_draws = 0
        self.sizes: list[int] = []
        self.operations: list[Operation] = []
        self.depends: set[int] = set()
        self._copies: dict[tuple[object, ...], View] = {}

    def new(self, shape: Sequence[int], order: Sequence[int] | None = None) -> View:
        """Add a buffer for a result of this shape, with its dimensions in ``order``."""
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
        """Append an operation on whole buffers; return ``result``."""
        buffers = tuple(ABSENT if each is None else each.buffer for each in operands)
        if self.aranges.intersection(buffers):
            raise NotNativeError("arange has a native form only as an index")
        self.operations.append(
            Operation(kind, buffers, result.buffer, tuple(map(int, numbers)), tuple(map(float, factors)))
        )
        if self.depends.intersection(buffers):
            self.depends.add(result.buffer)
        return result

    def contiguous(self, view: View, order: Sequence[int] | None = None) -> View:
        """The same tensor as a whole buffer with its dimensions in ``order``; copied only if it lies differently."""
        order = identity(len(view.shape)) if order is None else tuple(order)
        if view.is_contiguous(order, self.sizes[view.buffer]):
            return view
        key = (view.buffer, view.shape, view.tensor.stride(), view.tensor.storage_offset(), order)
        if key not in self._copies:
            copy = self.new(view.shape, order)
            self.copy(view, copy)
            self._copies[key] = copy
        return self._copies[key]

    def order_of(self, view: View) -> tuple[int, ...] | None:
        """The order of dimensions in which the view covers its whole buffer; ``None`` if it does not."""
        strides = view.tensor.stride()
        order = tuple(sorted(identity(len(view.shape)), key=lambda dim: (-strides[dim], dim)))
        return order if view.is_contiguous(order, self.sizes[view.buffer]) else None

    def copy(self, source: View, dest: View, *, clear: bool = False) -> None:
        """Copy a tensor to a view of the same shape in another buffer; ``clear`` sets the rest of that buffer to 0."""
        dims = _dims(source, dest)
        is_all = self.order_of(source) is not None
        offsets = int(source.tensor.storage_offset()), int(dest.tensor.storage_offset())
        numbers = [self.sizes[source.buffer], is_all, clear, self.sizes[dest.buffer], *offsets]
        self.write(Kind.COPY, [source], dest, numbers + [number for dim in dims for number in dim])

    def pointwise(self, function: Function, x: View, *parameters: float) -> View:
        """Apply ``function`` to every element of x; the result keeps the memory order of x."""
        order = self.order_of(x)
        x = self.contiguous(x, order)
        result = self.new(x.shape, order)
        return self.write(Kind.POINTWISE, [x], result, [function, x.shape.numel()], parameters)


def _dims(source: View, dest: View) -> list[tuple[int, int, int]]:
    """Size, source stride and destination stride of a copy's dimensions, merged where possible.

    The dimensions are in the order of the destination, outermost first.
    """
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

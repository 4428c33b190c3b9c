"""The numbers of a product of matrices, and copies that its matrices are read or written through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from maml_fast.lowering._numbers import Operation

__all__ = ["Places", "Product", "read_through", "write_through"]

Dim = tuple[int, int]  # a size, and a step


class Places(NamedTuple):
    """Where matrices [outer, inner, row, column] lie in a buffer (``ProductPlaces`` in ``csrc/core``)."""

    size: int
    offset: int
    outer: int
    inner: int
    row: int
    column: int


class Product(NamedTuple):
    """The numbers of a product (``ProductShape`` in ``csrc/core``)."""

    outer: int
    inner: int
    rows: int
    depth: int
    columns: int
    cancels: int
    x: Places
    w: Places
    y: Places

    @classmethod
    def dense(cls, matrices: int, rows: int, depth: int, columns: int) -> Product:
        """A product of whole buffers."""

        def places(of_row: int, of_column: int) -> Places:
            matrix = of_row * of_column
            return Places(matrices * matrix, 0, 0, matrix, of_column, 1)

        sizes = 1, matrices, rows, depth, columns, 0
        return cls(*sizes, places(rows, depth), places(depth, columns), places(rows, columns))

    @classmethod
    def of(cls, operation: Operation) -> Product:
        """The product that an operation is."""
        n = operation.numbers
        return cls(*n[:6], *(Places(*n[at : at + 6]) for at in (6, 12, 18)))  # type: ignore[arg-type]

    def numbers(self) -> tuple[int, ...]:
        """The numbers of the operation."""
        return *self[:6], *self.x, *self.w, *self.y

    def sizes_of(self, name: str) -> tuple[int, int]:
        """The rows and columns of ``x``, ``w`` or ``y``."""
        return {"x": (self.rows, self.depth), "w": (self.depth, self.columns), "y": (self.rows, self.columns)}[name]


class _Copy(NamedTuple):
    """The numbers of a copy (``csrc/cpu/operations/copy.h``)."""

    source_size: int
    is_all: int
    clears: int
    dest_size: int
    source_offset: int
    dest_offset: int
    dims: tuple[tuple[int, int, int], ...]  # size, step in the source, step in the destination

    @classmethod
    def of(cls, operation: Operation) -> _Copy:
        source_size, is_all, clears, dest_size, source_offset, dest_offset, *n = operation.numbers
        dims = tuple(zip(n[::3], n[1::3], n[2::3], strict=True))
        return cls(source_size, is_all, clears, dest_size, source_offset, dest_offset, dims)


def read_through(product: Product, name: str, copy: Operation) -> Product | None:
    """The product with ``x`` or ``w`` where ``copy`` copies it from; ``None`` if it cannot be read there."""
    c = _Copy.of(copy)
    dims = [(size, dest, source) for size, source, dest in c.dims]
    if c.clears or c.dest_offset or not _is_whole(dims, c.dest_size) or not _all_differ(c.dims):
        return None
    return _moved(product, name, dims, c.source_size, c.source_offset)


def write_through(product: Product, copy: Operation) -> Product | None:
    """The product that writes ``y`` where ``copy`` copies it to; ``None`` if it cannot be written there."""
    c = _Copy.of(copy)
    if not c.is_all or c.clears or c.dest_offset or c.dest_size != c.source_size:
        return None
    return _moved(product, "y", list(c.dims), c.dest_size, 0)


def _is_whole(dims: Sequence[tuple[int, int, int]], size: int) -> bool:
    expected = 1
    for length, step, _ in sorted(dims, key=lambda dim: dim[1]):
        if step != expected:
            return False
        expected *= length
    return expected == size


def _all_differ(dims: Sequence[tuple[int, int, int]]) -> bool:
    """Whether no two scalars come from the same place."""
    span = 1
    for length, source, _ in sorted(dims, key=lambda dim: dim[1]):
        if length > 1 and source < span:
            return False
        span += (length - 1) * source
    return True


def _moved(product: Product, name: str, dims: Sequence[tuple[int, int, int]], size: int, offset: int) -> Product | None:
    """The product whose ``name`` lies in another buffer.

    dims: size, step in the buffer where it was, which they cover, and step in the other one.
    """
    places: Places = getattr(product, name)
    rows, columns = product.sizes_of(name)
    matrices = _through(dims, product.inner, places.inner)
    found = [_through(dims, rows, places.row), _through(dims, columns, places.column)]
    outer = _through(dims, product.outer, places.outer)
    if matrices is None or outer is None or any(each is None or len(each) > 1 for each in found) or len(outer) > 1:
        return None
    (_, row), (_, column) = (each[0] for each in found if each)
    is_dense = row == 1 or column == 1 or rows == 1 or columns == 1
    if places.offset or not is_dense or (len(matrices) > 1 and product.outer > 1):
        return None
    if len(matrices) == 1:
        moved: dict[str, Any] = {name: Places(size, offset, outer[0][1], matrices[0][1], row, column)}
        return product._replace(**moved)
    (n_outer, outer_step), (n_inner, inner_step) = matrices
    split: dict[str, Any] = {
        other: getattr(product, other)._replace(outer=n_inner * getattr(product, other).inner)
        for other in ("x", "w", "y")
    }
    split[name] = Places(size, offset, outer_step, inner_step, row, column)
    return product._replace(outer=n_outer, inner=n_inner, **split)


def _through(dims: Sequence[tuple[int, int, int]], size: int, step: int) -> list[Dim] | None:
    """Where a dimension of this size and step goes, as one dimension or as two, the outer one first."""
    if size == 1:
        return [(1, 0)]
    for length, before, after in dims:
        if not before <= step < before * length or step % before:
            continue
        inner = before * length // step
        if size <= inner:
            return [(size, step // before * after)]
        if before * length % step or size % inner:
            return None
        rest = _through(dims, size // inner, step * inner)
        if rest is None or len(rest) > 1:
            return None
        return [*rest, (inner, step // before * after)]
    return None

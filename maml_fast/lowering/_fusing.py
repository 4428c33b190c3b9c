"""Rewrites the operations of a program so that less has to be computed and stored; results stay the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

from maml_fast.lowering._numbers import ABSENT, Function, Kind, Operation, Pool
from maml_fast.lowering._product import Product, read_through, write_through

__all__ = ["fuse"]

# Positions in a norm's numbers, as in csrc/cpu/operations/norm_chunks.h, and in a convolution's.
FUNCTION, POOL = 4, 5
CANCELS = 9

# Functions that never decrease. `clamp` is missing: its derivative at the bounds depends on which of several equal
# values is taken as the maximum.
INCREASING = (Function.LEAKY_RELU, Function.ELU, Function.TANH, Function.SIGMOID, Function.EXP, Function.SOFTPLUS)


def fuse(operations: Sequence[Operation], sizes: list[int], kept: Collection[int]) -> list[Operation]:
    """Return operations that compute the same.

    Args:
        operations: the operations of a program, in order.
        sizes: the sizes of its buffers; buffers that get smaller are updated here.
        kept: buffers that are read from outside of the program.
    """
    uses = Counter(buffer for operation in operations for buffer in operation.operands if buffer != ABSENT)
    uses.update(kept)
    products = _fuse_products(_pool_first(operations, sizes, uses), uses)
    return _fuse_norms(_skip_canceled_biases(products, uses), uses)


def _fuse_products(operations: Sequence[Operation], uses: Counter[int]) -> list[Operation]:
    """Let products read and write through copies, and multiply by the factors before and after them."""
    fused, were_read = list(operations), Counter(uses)
    writers = {operation.result: place for place, operation in enumerate(fused)}
    merged_places = set()
    for place, operation in enumerate(fused):
        if operation.kind is Kind.PRODUCT:
            fused[place] = _with_operands(operation, fused, writers, uses)
    for place, reader in enumerate(fused):
        source = reader.operands[0] if reader.operands else ABSENT
        before = writers.get(source, -1)
        if before < 0 or fused[before].kind is not Kind.PRODUCT or uses[source] != 1 or not uses[reader.result]:
            continue
        if (merged := _with_reader(fused[before], reader)) is not None:
            fused[before] = merged
            writers[merged.result] = before
            uses[source] = 0
            merged_places.add(place)
    return [
        operation
        for place, operation in enumerate(fused)
        if place not in merged_places and (uses[operation.result] or not were_read[operation.result])
    ]


def _with_operands(
    product: Operation, operations: Sequence[Operation], writers: dict[int, int], uses: Counter[int]
) -> Operation:
    """The product with operands that are the sources of copies or factors, where it can read them."""
    operands, shape, (factor,) = list(product.operands), Product.of(product), product.factors
    for i, name in enumerate(("x", "w")):
        while (place := writers.get(operands[i], -1)) >= 0:
            before = operations[place]
            read: Product | None = None
            if before.kind is Kind.COPY:
                read = read_through(shape, name, before)
            elif (scale := _scale(before)) is not None:
                read, factor = shape, factor * scale
            if read is None:
                break
            shape = read
            uses[operands[i]] -= 1
            operands[i] = before.operands[0]
            uses[operands[i]] += 1
            _forget(before, uses)
    return product._replace(operands=tuple(operands), numbers=shape.numbers(), factors=(factor,))


def _forget(operation: Operation, uses: Counter[int]) -> None:
    """Stop counting what an operation reads once nothing reads its result."""
    if uses[operation.result] == 0:
        uses.subtract(operation.operands)


def _with_reader(product: Operation, reader: Operation) -> Operation | None:
    """One product that does what the reader of its result does, too; ``None`` if there is none."""
    if product.operands[2:] not in ((), (ABSENT,)):
        return None
    scale = _scale(reader)
    if scale is not None:
        return product._replace(result=reader.result, factors=(product.factors[0] * scale,))
    written = write_through(Product.of(product), reader) if reader.kind is Kind.COPY else None
    return None if written is None else product._replace(result=reader.result, numbers=written.numbers())


def _scale(operation: Operation) -> float | None:
    """The factor, if the operation multiplies by a number."""
    is_scale = (
        operation.kind is Kind.POINTWISE and operation.numbers[0] == Function.AFFINE and operation.factors[1] == 0
    )
    return operation.factors[0] if is_scale else None


def _pool_first(operations: Sequence[Operation], sizes: list[int], uses: Counter[int]) -> list[Operation]:
    """Move increasing functions behind max pools: the maximum stays where it is, and there are fewer values."""
    moved = list(operations)
    places = {operation.result: place for place, operation in enumerate(operations)}
    for place, pool in enumerate(moved):
        if pool.kind is not Kind.MAX_POOL or uses[pool.operands[0]] != 1:
            continue
        before = places.get(pool.operands[0], -1)
        if before < 0 or moved[before].kind is not Kind.POINTWISE or moved[before].numbers[0] not in INCREASING:
            continue
        function = moved[before]
        sizes[function.result] = sizes[pool.result]
        numbers = (function.numbers[0], sizes[pool.result])
        moved[before] = pool._replace(operands=function.operands, result=function.result)
        moved[place] = function._replace(operands=(function.result,), result=pool.result, numbers=numbers)
    return moved


def _skip_canceled_biases(operations: Sequence[Operation], uses: Counter[int]) -> list[Operation]:
    """Mark the biases that the norm after them cancels: their gradients are zero and need not be computed."""
    marked = list(operations)
    places = {operation.result: place for place, operation in enumerate(operations)}
    for norm in operations:
        place = places.get(norm.operands[0], -1) if norm.kind is Kind.NORM else -1
        if place < 0 or uses[norm.operands[0]] != 1:
            continue
        _, _, channels, groups, *_ = norm.numbers
        before = marked[place]
        if before.kind is Kind.CONVOLUTION and groups == channels == before.numbers[5]:
            marked[place] = before._replace(numbers=(*before.numbers[:CANCELS], 1))
        elif before.kind is Kind.PRODUCT and groups == channels == Product.of(before).columns:
            marked[place] = before._replace(numbers=Product.of(before)._replace(cancels=1).numbers())
    return marked


def _fuse_norms(operations: Sequence[Operation], uses: Counter[int]) -> list[Operation]:
    """Merge each norm with the function and the pool after it, where these are the only readers of its result."""
    fused: list[Operation] = []
    norms: dict[int, int] = {}  # the index of each norm in ``fused``, by its result
    for operation in operations:
        first = operation.operands[0] if operation.operands else ABSENT
        place = norms.get(first, -1)
        merged = _merged(fused[place], operation) if place >= 0 and uses[first] == 1 else None
        if merged is not None:
            fused[place] = merged
            norms[merged.result] = place
            continue
        if operation.kind is Kind.NORM:
            norms[operation.result] = len(fused)
        fused.append(operation)
    return fused


def _merged(norm: Operation, operation: Operation) -> Operation | None:
    """One operation that does both; ``None`` if there is none."""
    _, rows, channels, _, function, pool, *windows = norm.numbers
    if operation.kind is Kind.POINTWISE and function == ABSENT:
        # A layer norm has a single row per set, too few elements to gain from fusing.
        if rows == 1 or (pool != Pool.NONE and not (pool == Pool.MAX and operation.numbers[0] in INCREASING)):
            return None
        numbers = (*norm.numbers[:FUNCTION], operation.numbers[0], pool, *windows)
        return norm._replace(result=operation.result, numbers=numbers, factors=norm.factors + operation.factors)
    found = _windows(operation)
    if found is None or pool != Pool.NONE:
        return None
    kind, windows = found
    _, of_image, height, width, *_ = windows
    if of_image != channels or rows % (height * width):
        return None
    return norm._replace(result=operation.result, numbers=(*norm.numbers[:POOL], kind, *windows))


def _windows(operation: Operation) -> tuple[Pool, list[int]] | None:
    """Return the kind of a pool and its windows; ``None`` if it is no pool of windows that lie within the image."""
    if operation.kind is Kind.MAX_POOL:
        return Pool.MAX, [*operation.numbers]
    if operation.kind is not Kind.AVERAGE_POOL or len({*operation.factors}) != 1:
        return None
    shape, ends = operation.numbers[:6], operation.numbers[6:]
    out_height = shape[4]
    spans = [ends[: 2 * out_height], ends[2 * out_height :]]
    begins = [of_dim[::2] for of_dim in spans]
    lengths = [{past - first for first, past in zip(of_dim[::2], of_dim[1::2], strict=True)} for of_dim in spans]
    steps = [{b - a for a, b in pairwise(of_dim)} or {1} for of_dim in begins]
    if any(of_dim[0] != 0 for of_dim in begins) or any(len(each) != 1 for each in (*lengths, *steps)):
        return None
    kernel, stride = [each.pop() for each in lengths], [each.pop() for each in steps]
    if not math.isclose(operation.factors[0], 1 / math.prod(kernel)):
        return None
    return Pool.AVERAGE, [*shape, *kernel, *stride, 0, 0, 1, 1]

"""Rewrites the operations of a program so that less has to be computed and stored; results stay the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

from maml_fast.lowering._numbers import ABSENT, Function, Kind, Operation, Pool

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
    return _fuse_norms(_skip_canceled_biases(_pool_first(operations, sizes, uses), uses), uses)


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
        if place < 0 or marked[place].kind is not Kind.CONVOLUTION or uses[norm.operands[0]] != 1:
            continue
        _, _, channels, groups, *_ = norm.numbers
        *numbers, _ = marked[place].numbers
        if groups == channels == numbers[5]:
            marked[place] = marked[place]._replace(numbers=(*numbers, 1))
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

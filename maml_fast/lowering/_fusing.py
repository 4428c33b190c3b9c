"""Rewrites the operations of a program so that less has to be computed and stored; results stay the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from maml_fast.lowering._numbers import ABSENT, Function, Kind, Operation

__all__ = ["fuse"]

# Positions in a norm's numbers, as in csrc/cpu/operations/norm_chunks.h, and in a convolution's.
FUNCTION, POOLS = 4, 5
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
    if norm.numbers[POOLS]:
        return None
    _, rows, channels, *_ = norm.numbers
    # A layer norm has a single row per set, too few elements to gain from fusing.
    if operation.kind is Kind.POINTWISE and norm.numbers[FUNCTION] == ABSENT and rows > 1:
        numbers = (*norm.numbers[:FUNCTION], operation.numbers[0], 0)
        return norm._replace(result=operation.result, numbers=numbers, factors=norm.factors + operation.factors)
    if operation.kind is Kind.MAX_POOL:
        _, of_image, height, width, *_ = operation.numbers
        if of_image == channels and rows % (height * width) == 0:
            numbers = (*norm.numbers[:POOLS], 1, *operation.numbers)
            return norm._replace(result=operation.result, numbers=numbers)
    return None

"""What follows a norm, computed with it while a few rows are in cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from maml_fast.lowering._numbers import ABSENT, Kind, Operation

__all__ = ["fuse_norms"]

NORM_NUMBERS, FUNCTION, POOLS = 6, 4, 5  # before the windows of a pool; csrc/cpu/operations/norm_chunks.h has them


def fuse_norms(operations: Iterable[Operation], kept: Collection[int]) -> list[Operation]:
    """The same program, in which norms take the functions and pools that alone read their results.

    kept: buffers that are read from outside.
    """
    uses = Counter(buffer for operation in operations for buffer in operation.operands if buffer != ABSENT)
    fused: list[Operation] = []
    norms: dict[int, int] = {}  # the norm's place in the list, by its result
    for operation in operations:
        place = norms.get(operation.operands[0], -1)
        before = fused[place] if place >= 0 and uses[operation.operands[0]] == 1 else None
        if before is not None and before.result not in kept and (both := _both(before, operation)) is not None:
            fused[place] = both
            norms[both.result] = place
            continue
        if operation.kind is Kind.NORM:
            norms[operation.result] = len(fused)
        fused.append(operation)
    return fused


def _both(norm: Operation, operation: Operation) -> Operation | None:
    """One operation for both; ``None`` if there is none."""
    if norm.numbers[POOLS]:
        return None
    _, rows, channels, *_ = norm.numbers
    if (
        operation.kind is Kind.POINTWISE and norm.numbers[FUNCTION] == ABSENT and rows > 1
    ):  # not a layer norm's few numbers
        numbers = (*norm.numbers[:FUNCTION], operation.numbers[0], 0)
        return norm._replace(result=operation.result, numbers=numbers, factors=norm.factors + operation.factors)
    if operation.kind is Kind.MAX_POOL:
        _, of_image, height, width, *_ = operation.numbers
        if of_image == channels and rows % (height * width) == 0:
            numbers = (*norm.numbers[:POOLS], 1, *operation.numbers)
            return norm._replace(result=operation.result, numbers=numbers)
    return None

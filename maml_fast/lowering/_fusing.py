"""Fuses norms with the activation and pool after them, which then run while a few rows are in cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from maml_fast.lowering._numbers import ABSENT, Kind, Operation

__all__ = ["fuse_norms"]

# Positions in a norm's numbers, as in csrc/cpu/operations/norm_chunks.h; a pool's windows come after the first six.
NORM_NUMBERS, FUNCTION, POOLS = 6, 4, 5


def fuse_norms(operations: Iterable[Operation], kept: Collection[int]) -> list[Operation]:
    """Merge each norm with the function and the pool after it, where these are the only readers of its result.

    kept: buffers that are read from outside of the program.
    """
    uses = Counter(buffer for operation in operations for buffer in operation.operands if buffer != ABSENT)
    fused: list[Operation] = []
    norms: dict[int, int] = {}  # the index of each norm in ``fused``, by its result
    for operation in operations:
        first = operation.operands[0] if operation.operands else ABSENT
        place = norms.get(first, -1)
        before = fused[place] if place >= 0 and uses[first] == 1 else None
        if before is not None and before.result not in kept and (merged := _merged(before, operation)) is not None:
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

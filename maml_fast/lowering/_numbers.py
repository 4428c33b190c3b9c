"""The kernels' vocabulary in numbers; ``csrc/core/program.h`` and ``csrc/cpu/operations`` say what they mean."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import NamedTuple

__all__ = ["ABSENT", "MOST_OPERANDS", "Function", "Kind", "Operation"]

ABSENT = -1
MOST_OPERANDS = 3


class Kind(IntEnum):
    """Operations, in the order of ``OperationKind``."""

    COPY = 0
    ADD = auto()
    MULTIPLY = auto()
    POINTWISE = auto()
    CONVOLUTION = auto()
    DEPTHWISE = auto()
    NORM = auto()
    MAX_POOL = auto()
    AVERAGE_POOL = auto()
    SUM = auto()
    SOFTMAX = auto()
    EMBEDDING = auto()
    PICK = auto()


class Function(IntEnum):
    """Functions of pointwise operations, in the order of ``FunctionKind``."""

    AFFINE = 0
    LEAKY_RELU = auto()
    CLAMP = auto()
    ELU = auto()
    TANH = auto()
    SIGMOID = auto()
    EXP = auto()
    LOG = auto()
    SQRT = auto()
    RECIPROCAL = auto()
    SQUARE = auto()
    SINE = auto()
    COSINE = auto()
    SILU = auto()
    GELU = auto()
    TANH_GELU = auto()
    SOFTPLUS = auto()
    LOG_SIGMOID = auto()
    MISH = auto()
    HARD_SWISH = auto()
    EQUAL = auto()
    ABS = auto()
    HUBER = auto()


class Operation(NamedTuple):
    """One operation on buffers; operands may be :data:`ABSENT`."""

    kind: Kind
    operands: tuple[int, ...]
    result: int
    numbers: tuple[int, ...]
    factors: tuple[float, ...]

    def in_numbers(self) -> list[int]:
        """As the kernels read it; the factors are given apart."""
        operands = [*self.operands, *(ABSENT,) * (MOST_OPERANDS - len(self.operands))]
        return [self.kind, *operands, self.result, len(self.numbers), *self.numbers, len(self.factors)]

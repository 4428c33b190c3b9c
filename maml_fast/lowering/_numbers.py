"""The kernels' vocabulary; ``csrc/core/program.h`` and ``csrc/cpu/operations`` define what the numbers mean."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import NamedTuple

__all__ = ["ABSENT", "MOST_OPERANDS", "Function", "Kind", "Operation", "Pool"]

ABSENT = -1
MOST_OPERANDS = 3


class Kind(IntEnum):
    """The kinds of operations, in the order of ``OperationKind`` in ``csrc/core/program.h``."""

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
    DRAW = auto()
    PRODUCT = auto()
    LSTM = auto()


class Function(IntEnum):
    """The functions of pointwise operations, in the order of ``FunctionKind`` in ``csrc/core/program.h``."""

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


class Pool(IntEnum):
    """The pool that follows a norm, in the order of ``NormPool`` in ``csrc/core/program.h``."""

    NONE = 0
    MAX = auto()
    AVERAGE = auto()


class Operation(NamedTuple):
    """One operation on buffers.

    operands: buffers, or :data:`ABSENT`.
    numbers, factors: integer and floating-point parameters; the operation's file in ``csrc/cpu/operations`` lists them.
    """

    kind: Kind
    operands: tuple[int, ...]
    result: int
    numbers: tuple[int, ...]
    factors: tuple[float, ...]

    def encode(self) -> list[int]:
        """The operation as the kernels read it. Factors are passed separately; only their count is included."""
        operands = [*self.operands, *(ABSENT,) * (MOST_OPERANDS - len(self.operands))]
        return [self.kind, *operands, self.result, len(self.numbers), *self.numbers, len(self.factors)]

"""Rewritten operations compute the same with less: functions after pools, canceled biases, norms with what follows."""

from __future__ import annotations

import pytest
import torch
from native_against_loop import CLASSES, assert_native_is_right, episodes_of
from torch import Tensor, nn

from maml_fast.lowering._fusing import fuse
from maml_fast.lowering._numbers import ABSENT, Function, Kind, Operation, Pool

CONVOLUTION = Operation(Kind.CONVOLUTION, (2, 3, 9), 4, (1, 2, 3, 5, 6, 11, 3, 1, 1, 0), ())
NORM = Operation(Kind.NORM, (4, 0, 1), 5, (1, 60, 11, 11, ABSENT, 0), (1e-5,))
RELU = Operation(Kind.POINTWISE, (5,), 6, (Function.LEAKY_RELU, 660), (0.0,))
GELU = RELU._replace(numbers=(Function.GELU, 660), factors=())
POOL = Operation(Kind.MAX_POOL, (6,), 7, (2, 11, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1), ())
POOLED = NORM._replace(result=6, numbers=(1, 60, 11, 11, ABSENT, Pool.MAX, *POOL.numbers))
SUM = Operation(Kind.SUM, (7,), 8, (1, 132, 1), (1.0,))
SIZES = [11, 11, 180, 297, 660, 660, 660, 132, 1, 11]


def fused(operations: list[Operation], kept: set[int]) -> list[Operation]:
    return fuse(operations, list(SIZES), kept)


def test_an_increasing_function_moves_behind_the_pool() -> None:
    sizes = list(SIZES)
    pool, relu, rest = fuse([RELU, POOL, SUM], sizes, {8})
    assert pool == POOL._replace(operands=(5,), result=6)
    assert relu == RELU._replace(operands=(6,), result=7, numbers=(Function.LEAKY_RELU, 132))
    assert rest == SUM
    assert sizes == [*SIZES[:6], 132, *SIZES[7:]]


@pytest.mark.parametrize(
    ("operations", "kept"),
    [
        ([GELU, POOL, SUM], {8}),  # not monotone
        ([RELU, POOL, SUM], {6, 8}),  # read from outside
        ([RELU, POOL, SUM._replace(operands=(6, 7))], {8}),  # another reader
        ([POOL, SUM], {8}),
    ],
    ids=["not monotone", "kept", "two readers", "no function"],
)
def test_a_function_that_stays(operations: list[Operation], kept: set[int]) -> None:
    assert fused(operations, kept) == operations


def test_a_bias_that_a_norm_cancels_is_marked() -> None:
    convolution, _ = fused([CONVOLUTION, NORM], {5})
    assert convolution == CONVOLUTION._replace(numbers=(*CONVOLUTION.numbers[:-1], 1))


@pytest.mark.parametrize(
    ("norm", "kept"),
    [
        (NORM._replace(numbers=(2, 30, 11, 1, ABSENT, 0)), {5}),  # of all channels together
        (NORM, {4, 5}),  # the convolution's result is read from outside
        (NORM._replace(operands=(2, 0, 1)), {5}),  # of something else
    ],
    ids=["group norm", "kept", "of something else"],
)
def test_a_bias_that_counts(norm: Operation, kept: set[int]) -> None:
    assert fused([CONVOLUTION, norm], kept)[0] == CONVOLUTION


@pytest.mark.parametrize("function", [RELU, GELU], ids=["relu", "gelu"])
def test_a_norm_takes_the_function_and_the_pool(function: Operation) -> None:
    norm, rest = fused([NORM, function, POOL, SUM], {8})
    numbers = (1, 60, 11, 11, function.numbers[0], Pool.MAX, *POOL.numbers)
    assert norm == Operation(Kind.NORM, (4, 0, 1), 7, numbers, (1e-5, *function.factors))
    assert rest == SUM


def test_a_norm_takes_a_pool_and_an_increasing_function_after_it() -> None:
    pool, relu = POOL._replace(operands=(5,), result=6), RELU._replace(operands=(6,), result=7)
    assert fused([NORM, pool, relu, SUM], {8}) == fused([NORM, RELU, POOL, SUM], {8})


def test_a_norm_takes_an_average_pool_of_whole_windows() -> None:
    average = Operation(Kind.AVERAGE_POOL, (6,), 7, (2, 11, 5, 6, 2, 3, 0, 2, 2, 4, 0, 2, 2, 4, 4, 6), (0.25,) * 6)
    norm, rest = fused([NORM, GELU, average, SUM], {8})
    assert norm.numbers == (1, 60, 11, 11, Function.GELU, Pool.AVERAGE, *POOL.numbers)
    assert rest == SUM
    at_the_edge = average._replace(numbers=(*average.numbers[:7], 1, *average.numbers[8:]))
    with_divisor = average._replace(factors=(0.5,) * 6)
    for other in (at_the_edge, with_divisor):
        assert fused([NORM, GELU, other, SUM], {8})[1:] == [other, SUM]


@pytest.mark.parametrize(
    ("operations", "kept"),
    [
        ([NORM, RELU, SUM._replace(operands=(5, 6))], {8}),  # the norm's result has another reader
        ([NORM, RELU, SUM], {5, 8}),  # or is read from outside
        ([NORM, RELU._replace(operands=(3,)), SUM], {8}),  # the function is of something else
        ([NORM._replace(numbers=(60, 1, 11, 1, ABSENT, 0)), RELU, SUM], {8}),  # a layer norm
        ([POOLED, GELU._replace(operands=(6,), result=7), SUM], {8}),  # pool(f(z)) and f(pool(z)) differ
    ],
    ids=["two readers", "kept", "of something else", "layer norm", "a pool and then a function that falls"],
)
def test_a_norm_takes_nothing(operations: list[Operation], kept: set[int]) -> None:
    assert fused(operations, kept) == operations


class Net(nn.Module):
    """A block with a norm, a function, and a pool or none."""

    def __init__(self, norm: nn.Module, function: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norm, function, pool)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.native
@pytest.mark.parametrize("pool", [nn.Identity(), nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)], ids=str)
@pytest.mark.parametrize(
    "function",
    [nn.ReLU(), nn.LeakyReLU(0.1), nn.SELU(), nn.Softplus(), nn.ReLU6(), nn.GELU(), nn.Mish(), nn.Identity()],
    ids=str,
)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6)], ids=str)
def test_against_the_loop(norm: nn.Module, function: nn.Module, pool: nn.Module) -> None:
    torch.manual_seed(0)
    assert_native_is_right(Net(norm, function, pool).double(), episodes_of(3, 6, 7))

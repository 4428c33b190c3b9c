"""Norms take the functions and pools that alone read their results, and nothing else."""

from __future__ import annotations

import pytest
import torch
from native_against_loop import CLASSES, assert_native_is_right, episodes_of
from torch import Tensor, nn

from maml_fast.lowering._fusing import fuse_norms
from maml_fast.lowering._numbers import ABSENT, Function, Kind, Operation

NORM = Operation(Kind.NORM, (4, 0, 1), 5, (1, 60, 11, 11, ABSENT, 0), (1e-5,))
RELU = Operation(Kind.POINTWISE, (5,), 6, (Function.LEAKY_RELU, 660), (0.0,))
POOL = Operation(Kind.MAX_POOL, (6,), 7, (2, 11, 5, 6, 2, 3, 2, 2, 2, 2, 0, 0, 1, 1), ())
SUM = Operation(Kind.SUM, (7,), 8, (1, 132, 1), (1.0,))


def test_function_and_pool() -> None:
    norm, rest = fuse_norms([NORM, RELU, POOL, SUM], {8})
    assert rest == SUM
    assert norm == Operation(Kind.NORM, (4, 0, 1), 7, (1, 60, 11, 11, 1, 1, *POOL.numbers), (1e-5, 0.0))


def test_pool_alone_and_function_after_it() -> None:
    pool, relu = POOL._replace(operands=(5,), result=6), RELU._replace(operands=(6,), result=7, numbers=(1, 132))
    norm, *rest = fuse_norms([NORM, pool, relu, SUM], {8})
    assert norm.numbers == (1, 60, 11, 11, ABSENT, 1, *POOL.numbers)
    assert rest == [relu, SUM]


@pytest.mark.parametrize(
    ("operations", "kept"),
    [
        ([NORM, RELU, SUM._replace(operands=(5, 6))], {8}),  # the norm's result has another reader
        ([NORM, RELU, SUM], {5, 8}),  # or is read from outside
        ([NORM, RELU._replace(operands=(3,)), SUM], {8}),  # the function is of something else
        ([NORM._replace(numbers=(60, 1, 11, 1, ABSENT, 0)), RELU, SUM], {8}),  # a layer norm
    ],
    ids=["two readers", "kept", "of something else", "layer norm"],
)
def test_nothing_is_fused(operations: list[Operation], kept: set[int]) -> None:
    assert fuse_norms(operations, kept) == operations


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
@pytest.mark.parametrize("function", [nn.LeakyReLU(0.1), nn.SELU(), nn.Tanh(), nn.GELU(), nn.Identity()], ids=str)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6)], ids=str)
def test_against_the_loop(norm: nn.Module, function: nn.Module, pool: nn.Module) -> None:
    torch.manual_seed(0)
    assert_native_is_right(Net(norm, function, pool).double(), episodes_of(3, 6, 7))

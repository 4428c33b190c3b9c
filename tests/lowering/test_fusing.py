"""Rewritten operations compute the same with less: functions after pools, canceled biases, norms with what follows."""

from __future__ import annotations

import pytest
import torch
from native_against_loop import CLASSES, assert_native_is_right, episodes_of
from torch import Tensor, nn

from maml_fast import MAML, Episodes, use_engine
from maml_fast.lowering._fusing import fuse
from maml_fast.lowering._numbers import ABSENT, Function, Kind, Operation, Pool
from maml_fast.lowering._product import Product

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


# Attention of two heads of 3 over two sequences of 4: queries, keys and values are parts of a buffer [2, 4, 18].
PARTS, QUERY, KEY, SCORES, SCALED, WEIGHTS, VALUE, HEADS, JOINED = range(9)
OF_QUERY = Operation(Kind.COPY, (PARTS,), QUERY, (144, 0, 0, 48, 0, 0, 2, 72, 24, 2, 3, 12, 4, 18, 3, 3, 1, 1), ())
OF_KEY = OF_QUERY._replace(result=KEY, numbers=(144, 0, 0, 48, 6, 0, 2, 72, 24, 2, 3, 12, 3, 1, 4, 4, 18, 1))
OF_SCORES = Operation(Kind.PRODUCT, (QUERY, KEY), SCORES, Product.dense(4, 4, 3, 4).numbers(), (1.0,))
OF_SCALED = Operation(Kind.POINTWISE, (SCORES,), SCALED, (Function.AFFINE, 64), (0.5, 0.0))
OF_WEIGHTS = Operation(Kind.SOFTMAX, (SCALED,), WEIGHTS, (16, 4, 0), ())
OF_VALUE = OF_QUERY._replace(result=VALUE, numbers=(144, 0, 0, 48, 12, 0, 2, 72, 24, 2, 3, 12, 4, 18, 3, 3, 1, 1))
OF_HEADS = Operation(Kind.PRODUCT, (WEIGHTS, VALUE), HEADS, Product.dense(4, 4, 4, 3).numbers(), (1.0,))
OF_JOINED = Operation(Kind.COPY, (HEADS,), JOINED, (48, 1, 0, 48, 0, 0, 2, 24, 24, 4, 3, 6, 2, 12, 3, 3, 1, 1), ())
ATTENTION = [OF_QUERY, OF_KEY, OF_SCORES, OF_SCALED, OF_WEIGHTS, OF_VALUE, OF_HEADS, OF_JOINED]
READ_SCORES = (2, 2, 4, 3, 4, 0, *(144, 0, 72, 3, 18, 1), *(144, 6, 72, 3, 1, 18), *(64, 0, 32, 16, 4, 1))
READ_HEADS = (2, 2, 4, 4, 3, 0, *(64, 0, 32, 16, 4, 1), *(144, 12, 72, 3, 18, 1), *(48, 0, 24, 3, 6, 1))


def attended(operations: list[Operation], kept: set[int]) -> list[Operation]:
    return fuse(operations, [144, 48, 48, 64, 64, 64, 48, 48, 48], kept)


def test_products_read_heads_where_they_are() -> None:
    scores, weights, heads = attended(ATTENTION, {JOINED})
    assert weights == OF_WEIGHTS
    assert scores == Operation(Kind.PRODUCT, (PARTS, PARTS), SCALED, READ_SCORES, (0.5,))
    assert heads == Operation(Kind.PRODUCT, (WEIGHTS, PARTS), JOINED, READ_HEADS, (1.0,))


def test_a_factor_before_a_product_is_the_products() -> None:
    before = OF_SCALED._replace(operands=(PARTS,), result=VALUE, numbers=(Function.AFFINE, 144))
    operations = [before, OF_QUERY._replace(operands=(VALUE,)), OF_KEY, OF_SCORES]
    (scores,) = attended(operations, {SCORES})
    assert scores == Operation(Kind.PRODUCT, (PARTS, PARTS), SCORES, READ_SCORES, (0.5,))


@pytest.mark.parametrize(
    "copy",
    [
        OF_KEY._replace(numbers=(*OF_KEY.numbers[:6], 2, 0, 24, *OF_KEY.numbers[9:])),  # expanded
        OF_KEY._replace(numbers=(72, 0, 1, 48, 0, 1, 47, 1, 1)),  # padded
        OF_KEY._replace(numbers=(48, 0, 0, 48, 0, 0, 8, 1, 6, 6, 8, 1)),  # rows of 4 lie in pieces of 6
        OF_KEY._replace(numbers=(576, 0, 0, 48, 0, 0, 2, 288, 24, 2, 12, 12, 3, 2, 4, 4, 72, 1)),  # neither row dense
    ],
    ids=["expanded", "padded", "in pieces", "with gaps"],
)
def test_copies_that_a_product_needs(copy: Operation) -> None:
    operations = [copy, OF_SCORES._replace(operands=(QUERY, KEY))]
    assert attended(operations, {SCORES}) == operations


def test_results_that_are_read_twice_stay() -> None:
    operations = [OF_HEADS, OF_JOINED]
    assert attended(operations, {HEADS, JOINED}) == operations
    with_bias = [OF_HEADS._replace(operands=(WEIGHTS, VALUE, PARTS)), OF_JOINED]
    assert attended(with_bias, {JOINED}) == with_bias


class Heads(nn.Module):
    """Attention over vectors taken as sequences of 4; ``first``: queries are scaled before the product."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.parts, self.out = first, nn.Linear(6, 18), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts(x.view(-1, 4, 6)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in parts)
        scores = q * 0.5 @ k.transpose(2, 3) if self.first else q @ k.transpose(2, 3) / 2
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(1))


@pytest.mark.native
@pytest.mark.parametrize("first", [True, False])
def test_attention_against_the_loop(first: bool) -> None:
    torch.manual_seed(0)
    assert_native_is_right(Heads(first).double(), episodes_of(24))


class Net(nn.Module):
    """Some layers with 6 channels in the end, and a classifier of their means."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers, nn.Flatten(2))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(2))


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
    convolution = nn.Conv2d(3, 6, 3, padding=1)
    assert_native_is_right(Net(convolution, norm, function, pool).double(), episodes_of(3, 6, 7))


SERIES = (3, 30), nn.Conv1d(3, 6, 5, padding=2), nn.BatchNorm1d, nn.InstanceNorm1d
DILATED = (3, 10, 12), nn.Conv2d(3, 6, 3, padding=2, dilation=2), nn.BatchNorm2d, nn.InstanceNorm2d
POINTS = (3, 10, 12), nn.Conv2d(3, 6, 1), nn.BatchNorm2d, nn.InstanceNorm2d


@pytest.mark.native
@pytest.mark.parametrize(("shape", "convolution", "of_batch", "of_image"), [SERIES, DILATED, POINTS])
@pytest.mark.parametrize("pool", ["none", "maximum", "average"])
@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_many_images_that_a_convolution_counts_otherwise(
    shape: tuple[int, ...],
    convolution: nn.Module,
    of_batch: type[nn.Module],
    of_image: type[nn.Module],
    pool: str,
    kind: str,
) -> None:
    """Convolutions without a kernel of their own are products at single pixels; norms and pools see whole images."""
    torch.manual_seed(0)
    norm = {"batch": of_batch(6), "group": nn.GroupNorm(2, 6), "instance": of_image(6)}[kind]
    pools = (nn.MaxPool1d(2), nn.AvgPool1d(2)) if len(shape) == 2 else (nn.MaxPool2d(2), nn.AvgPool2d(2))
    layers = {"none": nn.Identity(), "maximum": pools[0], "average": pools[1]}
    model = Net(convolution, norm, nn.ReLU(), layers[pool]).double()
    assert_native_is_right(model, episodes_of(*shape, support=40, queries=20))


class SplitHeights(nn.Module):
    """Two images of half the height in place of one, or one of twice the height in place of two."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(int(n * self.factor), int(height / self.factor), width, channels)
        return rows.permute(0, 3, 1, 2)


@pytest.mark.native
@pytest.mark.parametrize("factor", [2, 0.5, 0.25])
@pytest.mark.parametrize("pool", [nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2)], ids=str)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.GroupNorm(2, 6)], ids=str)
def test_a_norm_of_other_images_than_the_convolutions(norm: nn.Module, pool: nn.Module, factor: float) -> None:
    torch.manual_seed(0)
    split, joined = SplitHeights(factor), SplitHeights(1 / factor)
    model = Net(nn.Conv2d(3, 6, 3, padding=1), split, norm, nn.ReLU(), pool, joined).double()
    assert_native_is_right(model, episodes_of(3, 8, 12, support=40, queries=20))


@pytest.mark.native
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Identity()], ids=str)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(40), nn.GroupNorm(4, 40), nn.InstanceNorm2d(40)], ids=str)
def test_any_number_of_threads_gives_the_same_bits(norm: nn.Module, pool: nn.Module) -> None:
    """A single thread takes the norm along with the convolution; several threads share first one, then the other."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), norm, nn.LeakyReLU(0.1), pool, nn.Flatten(2))
    model = nn.Sequential(body, nn.Conv1d(40, CLASSES, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    x_spt, y_spt, x_qry, y_qry = episodes_of(3, 40, 41)
    episodes = Episodes(x_spt.float(), y_spt, x_qry.float(), y_qry)
    threads, bits = torch.get_num_threads(), []
    try:
        for number, task_chunk in ((1, 1), (2, 1), (3, 1), (2, 2)):
            torch.set_num_threads(number)
            maml = MAML(model, inner_lr=0.1, inner_steps=2, task_chunk=task_chunk)
            with use_engine("native"):
                loss = maml(episodes).loss
            bits.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, bits[0]) for each in bits)

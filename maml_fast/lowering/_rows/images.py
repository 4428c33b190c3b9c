"""Convolutions and pools of signals and images; the kernels take them channels last."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from maml_fast.lowering._numbers import Function, Kind
from maml_fast.lowering._rows.arithmetic import add
from maml_fast.lowering._rows.norms import batch_norm
from maml_fast.lowering._rows.products import linear
from maml_fast.lowering._rows.shapes import padded
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import NotNativeError, View, channels_last
from maml_fast.lowering._writer import Writer
from maml_fast.nn import conv_block
from maml_fast.program._operations import Call

aten = torch.ops.aten


@row(conv_block)
def _conv_block(w: Writer, call: Call, a: Arguments) -> View:
    side = call.arguments["weight"].shape[2]
    shape = [_extent(size, side, a["stride"], a["padding"], 1) for size in a["x"].shape[2:]]
    y = _square(w, a["x"], a["weight"], a["bias"], a["stride"], a["padding"], shape)
    if a["relu_first"]:
        y = w.pointwise(Function.LEAKY_RELU, y, 0.0)
    z = batch_norm(w, y, a["gamma"], a["beta"], a["eps"])
    if not a["relu_first"]:
        z = w.pointwise(Function.LEAKY_RELU, z, 0.0)
    if a["pool"] is None:
        return z
    side = a["pool"]
    return _max_pool(w, z, [size // side for size in shape], (side, side), (side, side), (0, 0), (1, 1))


def _extent(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@row(aten.convolution)
def _convolution(w: Writer, call: Call, a: Arguments) -> View:
    x, weight, bias, groups = a["input"], a["weight"], a["bias"], a["groups"]
    rank = len(x.shape) - 2
    stride, padding, dilation = (_per_dim(a[name], rank) for name in ("stride", "padding", "dilation"))
    if rank not in (1, 2) or len(weight.shape) != len(x.shape):
        raise NotNativeError("only 1-d and 2-d convolutions have a native form")
    kernel = tuple(weight.shape[2:])
    if a["transposed"]:
        if groups > 1 or kernel != tuple(stride) or any(padding) or any(_per_dim(a["output_padding"], rank)):
            raise NotNativeError(
                "a transposed convolution has a native form only with kernel equal to stride, one group and no padding"
            )
        return _non_overlapping(w, x, weight, bias)
    shape = list(call.result.shape[2:])
    if groups > 1:
        return _depthwise(w, call, x, weight, bias, kernel, stride, padding, dilation)
    is_square = rank == 2 and all(len({*each}) == 1 for each in (kernel, stride, padding)) and {*dilation} == {1}
    if is_square:
        return _square(w, x, weight, bias, stride[0], padding[0], shape)
    return _by_patches(w, x, weight, bias, stride, padding, dilation)


def _square(
    w: Writer, x: View, weight: View, bias: View | None, stride: int, padding: int, shape: Sequence[int]
) -> View:
    """A 2-d convolution with equal kernel, stride and padding in both directions."""
    x = w.contiguous(x, channels_last(4))
    images, in_channels, height, width = x.shape
    out_channels, _, side, _ = weight.shape
    result = w.new((images, out_channels, *shape), channels_last(4))
    numbers = [1, images, in_channels, height, width, out_channels, side, stride, padding, 0]
    return w.write(
        Kind.CONVOLUTION, [x, w.contiguous(weight, (2, 3, 1, 0)), _contiguous_bias(w, bias)], result, numbers
    )


def _by_patches(
    w: Writer,
    x: View,
    weight: View,
    bias: View | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> View:
    """Any other convolution, as a matrix product of the patches of all output pixels with the filters."""
    rank = len(x.shape)
    out_channels, _, *kernel = weight.shape
    patches = _patches(w, x, kernel, stride, padding, dilation)
    images, in_channels, *_ = patches.shape
    shape = patches.shape[rank:]
    pixels, patch = images * prod(shape), prod(kernel) * in_channels
    to_rows = (0, *range(rank, 2 * rank - 2), *range(2, rank), 1)  # [N, C, k, k, H, W] -> [N, H, W, k, k, C]
    rows = w.contiguous(patches.map(lambda tensor: tensor.permute(to_rows))).map(
        lambda tensor: tensor.view(pixels, patch)
    )
    filters = w.contiguous(weight, (*range(2, rank), 1, 0))
    matrix = filters.map(lambda tensor: tensor.permute(*range(2, rank), 1, 0).reshape(patch, out_channels))
    y = linear(w, rows, matrix, bias)
    to_last = (0, rank - 1, *range(1, rank - 1))
    return y.map(lambda tensor: tensor.view(images, *shape, out_channels).permute(to_last))


def _patches(
    w: Writer, x: View, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> View:
    """The patch that every output pixel depends on, as a strided view [N, C, *kernel, *pixels] of padded images."""
    rank = len(x.shape)
    pixels = [_extent(*each) for each in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)]
    x = w.contiguous(x, channels_last(rank))
    if any(padding):
        x = padded(w, x, {dim + 2: (margin, margin) for dim, margin in enumerate(padding)})
    x = w.contiguous(x, channels_last(rank))
    of_image, of_channel, *of_pixel = x.tensor.stride()
    sizes = (*x.shape[:2], *kernel, *pixels)
    strides = (
        of_image,
        of_channel,
        *(step * d for step, d in zip(of_pixel, dilation, strict=True)),
        *(step * s for step, s in zip(of_pixel, stride, strict=True)),
    )
    return x.map(lambda tensor: tensor.as_strided(sizes, strides))


@row(aten.im2col)
def _im2col(w: Writer, call: Call, a: Arguments) -> View:
    x = _as_batch(a["self"])
    kernel, dilation, padding, stride = (
        _per_dim(a[name], 2) for name in ("kernel_size", "dilation", "padding", "stride")
    )
    patches = w.contiguous(_patches(w, x, kernel, stride, padding, dilation))
    return patches.map(lambda tensor: tensor.view(call.result.shape))


def _non_overlapping(w: Writer, x: View, weight: View, bias: View | None) -> View:
    """A transposed convolution whose kernel equals its stride, so that each pixel gives its own piece of the result."""
    rank = len(x.shape)
    images, in_channels, *sizes = x.shape
    _, out_channels, *kernel = weight.shape
    rows = w.contiguous(x, channels_last(rank)).map(lambda t: t.permute(channels_last(rank)).reshape(-1, in_channels))
    pieces = linear(w, rows, w.contiguous(weight).map(lambda tensor: tensor.view(in_channels, -1)))
    # [N, H, W, C, k, k] -> [N, C, H, k, W, k]
    axes = [place for pair in zip(range(1, rank - 1), range(rank, 2 * rank - 2), strict=True) for place in pair]
    apart = pieces.map(lambda t: t.view(images, *sizes, out_channels, *kernel).permute(0, rank - 1, *axes))
    shape = images, out_channels, *(size * side for size, side in zip(sizes, kernel, strict=True))
    y = w.contiguous(apart).map(lambda tensor: tensor.view(shape))
    if bias is None:
        return y
    return add(w, y, bias.map(lambda tensor: tensor.view(-1, *(1,) * (rank - 2))), 1, 1)


def _depthwise(
    w: Writer,
    call: Call,
    x: View,
    weight: View,
    bias: View | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> View:
    rank, channels = len(x.shape), x.shape[1]
    if call.arguments["groups"] != channels or weight.shape[0] != channels:
        raise NotNativeError(
            "a grouped convolution has a native form only if every channel is its own group, with one filter"
        )
    order = channels_last(rank)
    numbers = [x.shape[0], channels]
    for each in (x.shape[2:], call.result.shape[2:], kernel):
        numbers += _as_2d(each, 1)
    numbers += [*_as_2d(stride, 1), *_as_2d(padding, 0), *_as_2d(dilation, 1)]
    operands = [w.contiguous(x, order), w.contiguous(weight, (*range(2, rank), 1, 0)), _contiguous_bias(w, bias)]
    return w.write(Kind.DEPTHWISE, operands, w.new(call.result.shape, order), numbers)


@row(aten.max_pool2d_with_indices, aten.max_pool2d)
def _max_pool_2d(w: Writer, call: Call, a: Arguments) -> list[View | None]:
    kernel = _per_dim(a["kernel_size"], 2)
    stride = _per_dim(a["stride"], 2) if a["stride"] else kernel
    options = _per_dim(a["padding"], 2), _per_dim(a["dilation"], 2)
    pooled = _max_pool(w, _as_batch(a["self"]), call.result.shape[-2:], kernel, stride, *options)
    return [pooled.map(lambda tensor: tensor.view(call.result.shape)), None][: len(call.results)]


def _max_pool(
    w: Writer,
    x: View,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> View:
    x = w.contiguous(x, channels_last(4))
    images, channels, height, width = x.shape
    numbers = [images, channels, height, width, *shape, *kernel, *stride, *padding, *dilation]
    return w.write(Kind.MAX_POOL, [x], w.new((images, channels, *shape), channels_last(4)), numbers)


@row(aten.avg_pool2d)
def _avg_pool(w: Writer, call: Call, a: Arguments) -> View:
    x = a["self"]
    kernel, padding = _per_dim(a["kernel_size"], 2), _per_dim(a["padding"], 2)
    stride = _per_dim(a["stride"], 2) if a["stride"] else kernel
    spans, padded_sizes = [], []
    for dim in range(2):
        size, out = x.shape[dim - 2], call.result.shape[dim - 2]
        begins = [i * stride[dim] - padding[dim] for i in range(out)]
        ends = [min(begin + kernel[dim], size + padding[dim]) for begin in begins]
        padded_sizes.append([end - begin for begin, end in zip(begins, ends, strict=True)])
        spans.append([(max(begin, 0), min(end, size)) for begin, end in zip(begins, ends, strict=True)])
    counts = padded_sizes if a["count_include_pad"] else [[end - begin for begin, end in each] for each in spans]
    divisor = a["divisor_override"]
    factors = [1 / (divisor or rows * columns) for rows in counts[0] for columns in counts[1]]
    return _averages(w, x, call, spans, factors)


@row(aten._adaptive_avg_pool2d, aten.adaptive_avg_pool2d)
def _adaptive_avg_pool(w: Writer, call: Call, a: Arguments) -> View:
    x = a["self"]
    spans = []
    for dim in (-2, -1):
        size, out = x.shape[dim], call.result.shape[dim]
        spans.append([(i * size // out, -(-(i + 1) * size // out)) for i in range(out)])
    factors = [1 / ((r[1] - r[0]) * (c[1] - c[0])) for r in spans[0] for c in spans[1]]
    return _averages(w, x, call, spans, factors)


def _averages(
    w: Writer, x: View, call: Call, spans: Sequence[Sequence[tuple[int, int]]], factors: Sequence[float]
) -> View:
    x = w.contiguous(_as_batch(x), channels_last(4))
    images, channels, height, width = x.shape
    shape = call.result.shape[-2:]
    numbers = [images, channels, height, width, *shape, *(end for each in spans for span in each for end in span)]
    result = w.new((images, channels, *shape), channels_last(4))
    pooled = w.write(Kind.AVERAGE_POOL, [x], result, numbers, factors)
    return pooled.map(lambda tensor: tensor.view(call.result.shape))


def _as_batch(x: View) -> View:
    """View a single image [C, H, W] as a batch [1, C, H, W]; leave a batch as it is."""
    return x if len(x.shape) == 4 else x.map(lambda tensor: tensor[None])


def _contiguous_bias(w: Writer, bias: View | None) -> View | None:
    return None if bias is None else w.contiguous(bias)


def _per_dim(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Expand an option to one number per dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values


def _as_2d(values: Sequence[int], missing: int) -> list[int]:
    """Extend the values of a signal's one dimension to an image's two, with ``missing`` for the first."""
    return [missing] * (2 - len(values)) + list(values)

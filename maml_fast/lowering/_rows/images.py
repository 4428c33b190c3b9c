"""Convolutions and pools, of signals and images; the kernels have them channels last."""

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
    stride, padding, dilation = (_each(a[name], rank) for name in ("stride", "padding", "dilation"))
    if rank not in (1, 2) or len(weight.shape) != len(x.shape):
        raise NotNativeError("a convolution of other than signals and images has no native form")
    kernel = tuple(weight.shape[2:])
    if a["transposed"]:
        if groups > 1 or kernel != tuple(stride) or any(padding) or any(_each(a["output_padding"], rank)):
            raise NotNativeError("a transposed convolution has a native form where its pieces lie side by side, alone")
        return _side_by_side(w, x, weight, bias)
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
    """A convolution of images whose kernel, stride and padding are the same in both directions."""
    x = w.lying(x, channels_last(4))
    images, in_channels, height, width = x.shape
    out_channels, _, side, _ = weight.shape
    result = w.new((images, out_channels, *shape), channels_last(4))
    numbers = [1, images, in_channels, height, width, out_channels, side, stride, padding]
    return w.write(Kind.CONVOLUTION, [x, w.lying(weight, (2, 3, 1, 0)), _dense(w, bias)], result, numbers)


def _by_patches(
    w: Writer,
    x: View,
    weight: View,
    bias: View | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> View:
    """Any other convolution: the patches of every output pixel, side by side, times the filters."""
    rank = len(x.shape)
    out_channels, _, *kernel = weight.shape
    patches = _patches(w, x, kernel, stride, padding, dilation)
    images, in_channels, *_ = patches.shape
    shape = patches.shape[rank:]
    pixels, patch = images * prod(shape), prod(kernel) * in_channels
    to_rows = (0, *range(rank, 2 * rank - 2), *range(2, rank), 1)  # [N, C, k, k, H, W] -> [N, H, W, k, k, C]
    rows = w.lying(patches.map(lambda tensor: tensor.permute(to_rows))).map(lambda tensor: tensor.view(pixels, patch))
    filters = w.lying(weight, (*range(2, rank), 1, 0))
    matrix = filters.map(lambda tensor: tensor.permute(*range(2, rank), 1, 0).reshape(patch, out_channels))
    y = linear(w, rows, matrix, bias)
    to_last = (0, rank - 1, *range(1, rank - 1))
    return y.map(lambda tensor: tensor.view(images, *shape, out_channels).permute(to_last))


def _patches(
    w: Writer, x: View, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> View:
    """What every output pixel depends on, [N, C, *kernel, *pixels]: a view of images with their padding."""
    rank = len(x.shape)
    pixels = [_extent(*each) for each in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)]
    x = w.lying(x, channels_last(rank))
    if any(padding):
        x = padded(w, x, {dim + 2: (margin, margin) for dim, margin in enumerate(padding)})
    x = w.lying(x, channels_last(rank))
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
    kernel, dilation, padding, stride = (_each(a[name], 2) for name in ("kernel_size", "dilation", "padding", "stride"))
    patches = w.lying(_patches(w, x, kernel, stride, padding, dilation))
    return patches.map(lambda tensor: tensor.view(call.result.shape))


def _side_by_side(w: Writer, x: View, weight: View, bias: View | None) -> View:
    """A transposed convolution whose stride is its kernel: every pixel becomes a piece of the image by itself."""
    rank = len(x.shape)
    images, in_channels, *sizes = x.shape
    _, out_channels, *kernel = weight.shape
    rows = w.lying(x, channels_last(rank)).map(lambda t: t.permute(channels_last(rank)).reshape(-1, in_channels))
    pieces = linear(w, rows, w.lying(weight).map(lambda tensor: tensor.view(in_channels, -1)))
    # [N, H, W, C, k, k] -> [N, C, H, k, W, k]
    axes = [place for pair in zip(range(1, rank - 1), range(rank, 2 * rank - 2), strict=True) for place in pair]
    apart = pieces.map(lambda t: t.view(images, *sizes, out_channels, *kernel).permute(0, rank - 1, *axes))
    shape = images, out_channels, *(size * side for size, side in zip(sizes, kernel, strict=True))
    y = w.lying(apart).map(lambda tensor: tensor.view(shape))
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
            "a convolution of groups has a native form where every channel is a group of its own, alone"
        )
    order = channels_last(rank)
    numbers = [x.shape[0], channels]
    for each in (x.shape[2:], call.result.shape[2:], kernel):
        numbers += _in_two(each, 1)
    numbers += [*_in_two(stride, 1), *_in_two(padding, 0), *_in_two(dilation, 1)]
    operands = [w.lying(x, order), w.lying(weight, (*range(2, rank), 1, 0)), _dense(w, bias)]
    return w.write(Kind.DEPTHWISE, operands, w.new(call.result.shape, order), numbers)


@row(aten.max_pool2d_with_indices, aten.max_pool2d)
def _max_pool_2d(w: Writer, call: Call, a: Arguments) -> list[View | None]:
    kernel = _each(a["kernel_size"], 2)
    stride = _each(a["stride"], 2) if a["stride"] else kernel
    options = _each(a["padding"], 2), _each(a["dilation"], 2)
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
    x = w.lying(x, channels_last(4))
    images, channels, height, width = x.shape
    numbers = [images, channels, height, width, *shape, *kernel, *stride, *padding, *dilation]
    return w.write(Kind.MAX_POOL, [x], w.new((images, channels, *shape), channels_last(4)), numbers)


@row(aten.avg_pool2d)
def _avg_pool(w: Writer, call: Call, a: Arguments) -> View:
    x = a["self"]
    kernel, padding = _each(a["kernel_size"], 2), _each(a["padding"], 2)
    stride = _each(a["stride"], 2) if a["stride"] else kernel
    spans, whole = [], []
    for dim in range(2):
        size, out = x.shape[dim - 2], call.result.shape[dim - 2]
        begins = [i * stride[dim] - padding[dim] for i in range(out)]
        ends = [min(begin + kernel[dim], size + padding[dim]) for begin in begins]
        whole.append([end - begin for begin, end in zip(begins, ends, strict=True)])
        spans.append([(max(begin, 0), min(end, size)) for begin, end in zip(begins, ends, strict=True)])
    counts = whole if a["count_include_pad"] else [[end - begin for begin, end in each] for each in spans]
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
    x = w.lying(_as_batch(x), channels_last(4))
    images, channels, height, width = x.shape
    shape = call.result.shape[-2:]
    numbers = [images, channels, height, width, *shape, *(end for each in spans for span in each for end in span)]
    result = w.new((images, channels, *shape), channels_last(4))
    pooled = w.write(Kind.AVERAGE_POOL, [x], result, numbers, factors)
    return pooled.map(lambda tensor: tensor.view(call.result.shape))


def _as_batch(x: View) -> View:
    """[N, C, H, W], where a single image has no N."""
    return x if len(x.shape) == 4 else x.map(lambda tensor: tensor[None])


def _dense(w: Writer, bias: View | None) -> View | None:
    return None if bias is None else w.lying(bias)


def _each(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """PyTorch takes one number for all dimensions."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values


def _in_two(values: Sequence[int], missing: int) -> list[int]:
    """Of an image's two dimensions, where a signal has one."""
    return [missing] * (2 - len(values)) + list(values)

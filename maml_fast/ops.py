"""The public operations, for ``T`` tasks at once, and the choice between native kernels and pure PyTorch."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from maml_fast import _conv_block, native
from maml_fast import _reference as reference
from maml_fast._arguments import flag, number, optional, takes, tensor, whole
from maml_fast._conv_block import Arithmetic, convolved_extent, output_extent
from maml_fast._inner_loops import (
    InnerLoopsResult,
    LoweredModel,
    NetDescription,
    inner_loops,
)

__all__ = [
    "InnerLoopsResult",
    "LoweredModel",
    "NetDescription",
    "conv_block",
    "conv_block_by_statistics",
    "conv_block_with_statistics",
    "has_native_kernels",
    "in_kernel_order",
    "inner_loops",
    "native_obstacle",
    "output_extent",
    "over_tasks",
]

_BlockTensors = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]  # x, weight, bias, gamma, beta

_announced: set[str] = set()
_checked = takes(
    x=tensor,
    weight=tensor,
    bias=optional(tensor),
    gamma=optional(tensor),
    beta=optional(tensor),
    stride=whole(1),
    padding=whole(0),
    pool=optional(whole(1)),
    eps=number(least=0),
    relu_first=flag,
)
MOST_PIXELS = 2**31  # an image of as many is too large for the kernels, as csrc/bindings/tensors.h says
_OF_AUTOCAST = {torch.bfloat16: Arithmetic.BFLOAT16, torch.float16: Arithmetic.FLOAT16}


@_checked
def conv_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    pool: int | None = 2,
    eps: float = 1e-5,
    relu_first: bool = False,
) -> Tensor:
    """Convolution, batch norm on the batch's own statistics, ReLU and max-pool, for ``T`` tasks at once.

    Equal, task by task, to ``max_pool2d(relu(batch_norm(conv2d(x, weight, bias), training=True)), pool)``, with the
    biased variance, as in training; ``relu_first`` puts the ReLU before the batch norm. Differentiable twice.

    Args:
        x: images, [T, B, Cin, H, W], float32 or float64, any strides (channels-last is taken without a copy).
        weight: filters, [T, Cout, Cin, k, k]. Parameters that all tasks share may be an ``expand`` (task stride 0) and
            are read as they are.
        bias: [T, Cout]. Batch norm takes it out again unless ``relu_first``: its gradient is then exactly zero.
        gamma: scale after normalizing, [T, Cout]; 1 if ``None`` (Finn's net has none).
        beta: shift after normalizing, [T, Cout]; 0 if ``None``.
        stride: of the convolution.
        padding: zeros around the image, in pixels.
        pool: side and stride of the max-pool window, which rounds down; ``None`` for no pooling.
        eps: added to the variance.
        relu_first: ReLU before instead of after the batch norm.

    Returns:
        [T, B, Cout, H', W'], channels-last in memory on the native path.

    Raises:
        TypeError: an argument is of another type, x is not a floating-point tensor, or another tensor's dtype or device
            differs from x's.
        ValueError: a number out of range, shapes that do not fit each other, or a convolution whose output has no
            pixels or 2^31 and more.

    Native kernels take k in {1, 3, 5}, strides 1 to 3, ``pool`` ``None`` or 2, float32 and float64, on the CPU and on
    CUDA devices. Anything else runs on pure PyTorch and says so once, in a warning. On a GPU from sm_80 on, products of
    float32 go through the tensor cores with factors rounded to TF32 where ``torch.set_float32_matmul_precision`` (or
    ``torch.backends.cuda.matmul.fp32_precision``) allows it, to bfloat16 or float16 under ``torch.autocast``; sums,
    statistics and images stay float32. Source: Ioffe & Szegedy 2015; Finn et al. 2017, app. A.1.
    """
    geometry = _checked_geometry((x, weight, bias, gamma, beta), stride, padding, pool, eps, relu_first)
    if geometry is not None:
        return _conv_block.conv_block(x, weight, bias, gamma, beta, geometry)[0]
    return reference.conv_block(
        x, weight, bias, gamma, beta, stride=stride, padding=padding, pool=pool, eps=eps, relu_first=relu_first
    )


@_checked
def conv_block_with_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    pool: int | None = 2,
    eps: float = 1e-5,
    relu_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`conv_block`, and the statistics by which it normalized.

    Takes and raises what :func:`conv_block` does.

    Returns:
        The result, [T, B, Cout, H', W'], and mean and biased variance over the batch's images and pixels of what the
        batch norm was given, [T, Cout] each, without gradients.
    """
    geometry = _checked_geometry((x, weight, bias, gamma, beta), stride, padding, pool, eps, relu_first)
    if geometry is not None:
        out, mean, rstd = _conv_block.conv_block(x, weight, bias, gamma, beta, geometry)
        return out, mean, (rstd.pow(-2) - eps).clamp_(min=0)
    return reference.conv_block_with_statistics(
        x, weight, bias, gamma, beta, stride=stride, padding=padding, pool=pool, eps=eps, relu_first=relu_first
    )


@_checked
@takes(mean=tensor, variance=tensor)
def conv_block_by_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    mean: Tensor,
    variance: Tensor,
    stride: int = 1,
    padding: int = 1,
    pool: int | None = 2,
    eps: float = 1e-5,
    relu_first: bool = False,
) -> Tensor:
    """:func:`conv_block` that normalizes by this mean and variance, [Cout] for all tasks; always pure PyTorch.

    Takes and raises what :func:`conv_block` does; raises a ValueError, too, for statistics that are not [Cout], and on
    the CPU for a variance below zero.
    """
    _check_tensors(x, weight, bias, gamma, beta)
    _check_geometry(x, weight, stride, padding, pool)
    _check_statistics(x, weight, mean, variance)
    return reference.conv_block_by_statistics(
        x,
        weight,
        bias,
        gamma,
        beta,
        mean=mean,
        variance=variance,
        stride=stride,
        padding=padding,
        pool=pool,
        eps=eps,
        relu_first=relu_first,
    )


@takes(weight=tensor)
def in_kernel_order(weight: Tensor) -> Tensor:
    """Return filters [Cout, Cin, k, k] laid out in memory as [k, k, Cin, Cout], as the native kernels read them.

    Differentiable; the filters themselves where the kernels do not run. Elementwise operations keep the order. Raises
    a ValueError for another number of dimensions.
    """
    if weight.dim() != 4:
        raise ValueError(f"weight must be [Cout, Cin, k, k], got {list(weight.shape)}")
    runs_here = native.library() is not None if weight.device.type == "cpu" else native.has_cuda_kernels()
    if not runs_here:
        return weight
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


@takes(parameter=tensor, n_tasks=whole(1))
def over_tasks(parameter: Tensor, n_tasks: int) -> Tensor:
    """Return a parameter [...] for all tasks, [T, ...], task stride 0.

    Filters in kernel order are expanded in that order: the sum over tasks in the backward pass then goes through memory
    as it lies, four times as fast. Raises a TypeError for what is no tensor, a ValueError for fewer than one task.
    """
    if parameter.dim() == 4 and not parameter.is_contiguous():
        in_memory = parameter.permute(2, 3, 1, 0)  # [k, k, Cin, Cout]
        return in_memory.expand(n_tasks, *in_memory.shape).permute(0, 4, 3, 1, 2)
    return parameter.expand(n_tasks, *parameter.shape)


def has_native_kernels() -> bool:
    """Return whether there are any; they are built now if they never were."""
    return native.library() is not None


def _checked_geometry(
    tensors: _BlockTensors, stride: int, padding: int, pool: int | None, eps: float, relu_first: bool
) -> _conv_block.Geometry | None:
    """The block's constants for the native kernels; ``None`` where pure PyTorch runs it, which is said once."""
    x, weight, *_ = tensors
    _check_tensors(*tensors)
    _check_geometry(x, weight, stride, padding, pool)
    if not has_native_kernels():
        return None
    obstacle = native_obstacle(x, weight, stride, pool)
    if obstacle is not None:
        _announce(f"pure PyTorch runs it, not the native kernels: {obstacle}", calls_deep=3)
        return None
    return _conv_block.Geometry(stride, padding, pool is not None, eps, relu_first, _arithmetic(x).value)


def native_obstacle(x: Tensor, weight: Tensor, stride: int, pool: int | None) -> str | None:
    """What keeps a block of these arguments from the native kernels; ``None`` if nothing does."""
    if x.device.type not in ("cpu", "cuda"):
        return f"device {x.device.type} (cpu and cuda only)"
    if x.device.type == "cuda" and not native.has_cuda_kernels():
        return "device cuda, for which no kernels were compiled: see `maml-fast doctor`"
    if x.dtype not in (torch.float32, torch.float64):
        return f"{x.dtype} (float32 and float64 only)"
    _, _, _, height, width = weight.shape
    if height != width or height not in (1, 3, 5):
        return f"kernel {height}x{width} (1x1, 3x3 and 5x5 only)"
    if stride > 3:
        return f"stride {stride} (1 to 3 only)"
    if pool not in (None, 2):
        return f"pool {pool} (None and 2 only)"
    return None


def _check_tensors(x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | None, beta: Tensor | None) -> None:
    images, filters, dtype, device = x.shape, weight.shape, x.dtype, x.device
    if not dtype.is_floating_point:
        raise TypeError(f"conv_block: x must be a floating-point tensor, got {dtype}; scale the images first")
    if len(images) != 5 or 0 in images:
        raise ValueError(f"conv_block: x must be [T, B, Cin, H, W] and not empty, got {tuple(images)}")
    if len(filters) != 5 or filters[0] != images[0] or filters[2] != images[2] or 0 in filters:
        raise ValueError(
            f"conv_block: weight must be [T, Cout, Cin, k, k] with T={images[0]} and Cin={images[2]} as in x, "
            f"got {tuple(filters)}"
        )
    channels = filters[:2]
    for name, parameter in (("bias", bias), ("gamma", gamma), ("beta", beta)):
        if parameter is not None and parameter.shape != channels:
            raise ValueError(f"conv_block: {name} must be [T, Cout] = {tuple(channels)}, got {tuple(parameter.shape)}")
    for name, operand in (("weight", weight), ("bias", bias), ("gamma", gamma), ("beta", beta)):
        if operand is not None and (operand.dtype is not dtype or operand.device != device):
            raise TypeError(
                f"conv_block: {name} is {operand.dtype} on {operand.device} but x is {dtype} on {device}; "
                "move one to the other with .to()"
            )


def _check_geometry(x: Tensor, weight: Tensor, stride: int, padding: int, pool: int | None) -> None:
    *_, height, width = x.shape
    *_, kernel_height, kernel_width = weight.shape
    rows = convolved_extent(height, kernel_height, stride, padding)
    columns = convolved_extent(width, kernel_width, stride, padding)
    window = pool or 1
    if rows < window or columns < window:
        raise ValueError(
            f"conv_block: images of {(height, width)} have no output under kernel {(kernel_height, kernel_width)}, "
            f"stride {stride}, padding {padding}, pool {pool}; use larger images or more padding"
        )
    if rows * columns >= MOST_PIXELS:
        raise ValueError(
            f"conv_block: images of {(height, width)} become {rows} x {columns} pixels under padding {padding}, and "
            f"2**31 are too many; use less padding"
        )


def _check_statistics(x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor) -> None:
    channels = weight.shape[1:2]
    for name, statistic in (("mean", mean), ("variance", variance)):
        if statistic.shape != channels:
            raise ValueError(f"conv_block: {name} must be [Cout] = {tuple(channels)}, got {tuple(statistic.shape)}")
        if not statistic.dtype.is_floating_point or statistic.device != x.device:
            raise TypeError(
                f"conv_block: {name} is {statistic.dtype} on {statistic.device}; it must be floating-point and on "
                f"{x.device}, as x is"
            )
    if _may_look_at(variance) and bool((variance < 0).any()):
        raise ValueError(f"conv_block: variance must not be negative, got {float(variance.detach().min())}")


def _may_look_at(x: Tensor) -> bool:
    """Whether x has values that can be told without waiting for a device, and without breaking a trace of torch's."""
    traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return x.is_cpu and not traced and not torch._C._are_functorch_transforms_active()


def _arithmetic(x: Tensor) -> Arithmetic:
    """How x's device forms products: on a GPU's tensor cores where autocast, or PyTorch's setting for TF32, lets it."""
    if x.device.type != "cuda" or x.dtype is not torch.float32:
        return Arithmetic.EXACT
    if torch.is_autocast_enabled("cuda"):
        wanted = _OF_AUTOCAST[torch.get_autocast_dtype("cuda")]
    elif torch.backends.cuda.matmul.fp32_precision == "tf32":
        wanted = Arithmetic.TF32
    else:
        return Arithmetic.EXACT
    if _has_tensor_cores(x.device):
        return wanted
    name = torch.cuda.get_device_name(x.device)
    _announce(f"products stay exact on {name}: {wanted.name} needs sm_80 or later", calls_deep=4)
    return Arithmetic.EXACT


@functools.cache
def _has_tensor_cores(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _announce(what: str, *, calls_deep: int) -> None:
    """Warn once, of the line that called an operation: so many calls lie between that line and this function."""
    if what not in _announced:
        _announced.add(what)
        warnings.warn(f"conv_block: {what}", RuntimeWarning, stacklevel=calls_deep + 2)

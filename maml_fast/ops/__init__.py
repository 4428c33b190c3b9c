"""The public operations on ``T`` tasks at once, which run on native kernels or on pure PyTorch."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from maml_fast import _reference as reference
from maml_fast import native
from maml_fast._arguments import flag, int_from, number, optional, takes, tensor
from maml_fast.ops import _conv_block
from maml_fast.ops._conv_block import Arithmetic, RepeatedImages, convolved_extent, output_extent
from maml_fast.ops._inner_loops import (
    InnerLoopsResult,
    LoweredModel,
    NetDescription,
    inner_loops,
    program_memory,
)

__all__ = [
    "InnerLoopsResult",
    "LoweredModel",
    "NetDescription",
    "RepeatedImages",
    "conv_block",
    "conv_block_by_statistics",
    "conv_block_with_statistics",
    "has_native_kernels",
    "in_kernel_order",
    "inner_loops",
    "native_obstacle",
    "output_extent",
    "over_tasks",
    "program_memory",
]

_BlockTensors = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]  # x, weight, bias, gamma, beta

_announced: set[str] = set()
_checked = takes(
    x=tensor,
    weight=tensor,
    bias=optional(tensor),
    gamma=optional(tensor),
    beta=optional(tensor),
    stride=int_from(1),
    padding=int_from(0),
    pool=optional(int_from(1)),
    eps=number(least=0),
    relu_first=flag,
)
MAX_PIXELS = 2**31  # the kernels need images with fewer pixels, as in csrc/bindings/tensors.h
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
    """Convolution, batch norm with the batch's own statistics, ReLU and max-pool, for ``T`` tasks at once.

    For each task, this equals ``max_pool2d(relu(batch_norm(conv2d(x, weight, bias), training=True)), pool)``, with the
    biased variance, as in training; ``relu_first`` puts the ReLU before the batch norm. The operation is twice
    differentiable. Sources: Ioffe & Szegedy 2015; Finn et al. 2017, app. A.1.

    Native kernels support k in {1, 3, 5}, strides 1 to 3, ``pool`` ``None`` or 2, float32 and float64, on the CPU and
    on CUDA devices. Anything else runs on pure PyTorch, with one warning. On a GPU of sm_80 or later, float32 products
    use the tensor cores, with factors rounded to TF32 if ``torch.set_float32_matmul_precision`` (or
    ``torch.backends.cuda.matmul.fp32_precision``) allows it, and to bfloat16 or float16 under ``torch.autocast``; sums,
    statistics and images stay float32.

    Args:
        x: images, [T, B, Cin, H, W], float32 or float64, any strides (channels-last needs no copy).
        weight: filters, [T, Cout, Cin, k, k]. Parameters that all tasks share may be an ``expand`` (task stride 0),
            which is not copied.
        bias: [T, Cout]. Unless ``relu_first`` is set, batch norm cancels it, and its gradient is exactly zero.
        gamma: scale after normalizing, [T, Cout]; 1 if ``None`` (Finn's net has none).
        beta: shift after normalizing, [T, Cout]; 0 if ``None``.
        stride: stride of the convolution.
        padding: zeros around the image, in pixels.
        pool: side and stride of the max-pool window, which rounds down; ``None`` for no pooling.
        eps: added to the variance.
        relu_first: whether the ReLU comes before the batch norm, not after it.

    Returns:
        [T, B, Cout, H', W'], channels-last in memory on the native path.

    Raises:
        TypeError: an argument has the wrong type, x is not a floating-point tensor, or the dtype or device of another
            tensor differs from that of x.
        ValueError: a number is out of range, shapes disagree, or the convolution's output has no pixels, or 2^31 or
            more.
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
    """:func:`conv_block`, which also returns the statistics by which it normalized.

    Arguments and errors are those of :func:`conv_block`.

    Returns:
        The result, [T, B, Cout, H', W'], and the mean and the biased variance of the batch norm's input over images and
        pixels, [T, Cout] each, without gradients.
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
    """:func:`conv_block` with a given mean and variance, [Cout] for all tasks; always runs on pure PyTorch.

    Other arguments and errors are those of :func:`conv_block`.

    Raises:
        TypeError: the statistics are not floating-point tensors on the device of x.
        ValueError: the statistics are not [Cout], or (checked on the CPU only) the variance is negative.
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

    Differentiable. Elementwise operations keep the memory order. If there are no kernels for the device, the filters
    themselves are returned.

    Raises:
        ValueError: ``weight`` does not have four dimensions.
    """
    if weight.dim() != 4:
        raise ValueError(f"weight must be [Cout, Cin, k, k], got {list(weight.shape)}")
    runs_here = native.library() is not None if weight.device.type == "cpu" else native.has_cuda_kernels()
    if not runs_here:
        return weight
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


@takes(parameter=tensor, n_tasks=int_from(1))
def over_tasks(parameter: Tensor, n_tasks: int) -> Tensor:
    """Return a parameter [...] expanded to all tasks, [T, ...], with task stride 0.

    Filters in kernel order are expanded in that order: the sum over tasks in the backward pass then accesses memory
    sequentially, which is four times as fast. A single task needs no sum, so its parameter is only reshaped.

    Raises:
        TypeError: ``parameter`` is not a tensor.
        ValueError: ``n_tasks`` is below 1.
    """
    if n_tasks == 1:
        return parameter.unsqueeze(0)
    if parameter.dim() == 4 and not parameter.is_contiguous():
        in_memory = parameter.permute(2, 3, 1, 0)  # [k, k, Cin, Cout]
        return in_memory.expand(n_tasks, *in_memory.shape).permute(0, 4, 3, 1, 2)
    return parameter.expand(n_tasks, *parameter.shape)


def has_native_kernels() -> bool:
    """Return whether the native kernels are available; the first call may build them."""
    return native.library() is not None


def _checked_geometry(
    tensors: _BlockTensors, stride: int, padding: int, pool: int | None, eps: float, relu_first: bool
) -> _conv_block.Geometry | None:
    """Validate the arguments; return the block's constants for the native kernels, ``None`` if pure PyTorch runs it."""
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
    """Return what prevents the native kernels from running a block with these arguments; ``None`` if nothing does."""
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
    if rows * columns >= MAX_PIXELS:
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
    """Return whether the values of x can be read without waiting for a device and without breaking a torch trace."""
    traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return x.is_cpu and not traced and not torch._C._are_functorch_transforms_active()


def _arithmetic(x: Tensor) -> Arithmetic:
    """Return how the device of x multiplies: on tensor cores if autocast or PyTorch's setting for TF32 allows it."""
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
    """Warn once, at the line that called an operation, with ``calls_deep`` calls between that line and this one."""
    if what not in _announced:
        _announced.add(what)
        warnings.warn(f"conv_block: {what}", RuntimeWarning, stacklevel=calls_deep + 2)

"""Layers of a single task's network; ``torch.func.vmap`` turns them into layers for many tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from maml_fast import ops
from maml_fast._arguments import choice, flag, int_from, number, optional, takes, tensor

__all__ = [
    "BatchStatNorm2d",
    "ConvBlock",
    "batch_stat_norm",
    "conv_block",
    "conv_block_of_tasks",
    "moved",
    "traced_as_one",
    "tracking_conv_block",
]

P = ParamSpec("P")


def traced_as_one(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Make calls of ``function(x, ...)`` visible to modes of ``torch.overrides``, as ``torch.nn.functional``'s are."""

    @wraps(function)
    def call(x: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if has_torch_function_unary(x):
            return handle_torch_function(call, (x,), x, *args, **kwargs)
        return function(x, *args, **kwargs)

    return call


@traced_as_one
@takes(x=tensor, weight=optional(tensor), bias=optional(tensor), eps=number(least=0))
def batch_stat_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, axes: tuple[int, ...] | None = None
) -> Tensor:
    """Normalize x [B, C, ...] by the batch's own biased statistics (Ioffe & Szegedy 2015, eq. 1-4).

    Equals ``F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)``, but consists of elementary operations,
    because ``vmap(grad(...))`` over ``F.batch_norm`` silently gives a wrong second-order gradient.

    Args:
        x: the input, [B, C, ...].
        weight: scale after normalizing, [C]; 1 if ``None``.
        bias: shift after normalizing, [C]; 0 if ``None``.
        eps: added to the variance.
        axes: the numbers of dimensions that x may have; ``None`` for any.

    Returns:
        A tensor of the shape of x.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: the number of dimensions of x is not in ``axes``, or a parameter is not [C].
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != x.shape[1:2]:
            raise ValueError(f"{name} must be [C] = {list(x.shape[1:2])}, got {list(parameter.shape)}")
    if axes is not None and x.dim() not in axes:
        wanted = " or ".join(f"{n}-D" for n in axes)
        raise ValueError(f"batch norm expected {wanted} input, got a tensor of shape {list(x.shape)}")
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    centered = x - x.mean(dim=dims, keepdim=True)
    z = centered * torch.rsqrt((centered * centered).mean(dim=dims, keepdim=True) + eps)
    if weight is not None:
        z = z * weight.view(shape)
    if bias is not None:
        z = z + bias.view(shape)
    return z


class BatchStatNorm2d(torch.nn.BatchNorm2d):
    """A ``BatchNorm2d`` that always uses the batch's own statistics, in ``train()`` and in ``eval()``.

    It keeps no running statistics.

    Args:
        num_features: channels C of the input [B, C, H, W].
        eps: added to the variance.
        affine: whether there is a scale (``weight``, γ) and a shift (``bias``, β).
        gamma: whether an affine layer has the scale; Finn's net has only the shift.

    Raises:
        TypeError, ValueError: an argument has the wrong type, there is less than one channel, or ``eps`` is not
            positive.
    """

    @takes(num_features=int_from(1), eps=number(above=0), affine=flag, gamma=flag)
    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = True, gamma: bool = True) -> None:
        super().__init__(num_features, eps=eps, affine=affine, track_running_stats=False)
        if not gamma:
            self.register_parameter("weight", None)

    def reset_parameters(self) -> None:
        """Set the scale to one and the shift to zero, if they exist."""
        if self.weight is not None:
            torch.nn.init.ones_(self.weight)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x [B, C, H, W]; the result has the same shape."""
        return batch_stat_norm(x, self.weight, self.bias, self.eps, axes=(4,))


class ConvBlock(torch.nn.Module):
    """Convolution, batch norm with the batch's own statistics, ReLU and max-pool as one operation.

    The parameters are ``conv.weight``, ``conv.bias``, ``norm.weight`` (γ) and ``norm.bias`` (β), initialized as in
    :class:`torch.nn.Conv2d` and :class:`torch.nn.BatchNorm2d`.

    Args:
        in_channels, out_channels: channels of the input and the output.
        kernel_size: side of the square kernel; 1, 3 and 5 have native kernels.
        stride: stride of the convolution; 1 to 3 have native kernels.
        padding: zeros on every side of the image, in pixels.
        pool: 2 for a 2x2 max-pool with stride 2 (odd sizes lose the last row or column), ``None`` for no pooling.
        bias: whether the convolution has a bias. Its gradient is exactly zero if batch norm follows directly.
        affine: whether batch norm has parameters.
        gamma: whether the scale is one of them.
        eps: added to the variance.
        relu_first: whether the order is convolution, ReLU, batch norm, pool instead of convolution, batch norm, ReLU,
            pool.

    Raises:
        TypeError, ValueError: an argument has the wrong type, a size, stride or padding is out of range, or ``pool`` is
            neither 2 nor ``None``.
    """

    @takes(
        in_channels=int_from(1),
        out_channels=int_from(1),
        kernel_size=int_from(1),
        stride=int_from(1),
        padding=int_from(0),
        pool=optional(choice(2, said="2 or None")),
        bias=flag,
        affine=flag,
        gamma=flag,
        eps=number(above=0),
        relu_first=flag,
    )
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 1,
        pool: int | None = 2,
        bias: bool = True,
        affine: bool = True,
        gamma: bool = True,
        eps: float = 1e-5,
        relu_first: bool = False,
    ) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        self.norm = BatchStatNorm2d(out_channels, eps, affine=affine, gamma=gamma)
        self.pool = pool
        self.relu_first = relu_first

    def forward(self, x: Tensor) -> Tensor:
        """Map images x [B, Cin, H, W] to features [B, Cout, H', W'], channels-last in memory on the native path."""
        return conv_block(x, self.conv.weight, self.conv.bias, self.norm.weight, self.norm.bias, **self.geometry)

    @property
    def geometry(self) -> dict[str, Any]:
        """The keyword arguments of :func:`conv_block`."""
        return {
            "stride": self.conv.stride[0],
            "padding": int(self.conv.padding[0]),
            "pool": self.pool,
            "eps": self.norm.eps,
            "relu_first": self.relu_first,
        }

    def extra_repr(self) -> str:
        """Describe what the representation of the two child layers does not show."""
        return f"pool={self.pool}, relu_first={self.relu_first}"


@traced_as_one
@takes(x=tensor, weight=tensor, bias=optional(tensor), gamma=optional(tensor), beta=optional(tensor))
def conv_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    stride: int,
    padding: int,
    pool: int | None,
    eps: float,
    relu_first: bool,
) -> Tensor:
    """:func:`maml_fast.ops.conv_block` for one task: x [B, Cin, H, W], weight [Cout, Cin, k, k], the rest [Cout].

    Under ``torch.func.vmap``, the operation's batching rule replaces the single task by the mapped tasks.
    """
    _check_images(x)
    out = conv_block_of_tasks(
        *_as_one_task(x, weight, bias, gamma, beta),
        stride=stride,
        padding=padding,
        pool=pool,
        eps=eps,
        relu_first=relu_first,
    )
    return out.squeeze(0)  # [B, Cout, H', W']; out[0] would copy the gradient


def conv_block_of_tasks(
    x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | None, beta: Tensor | None, **geometry: Any
) -> Tensor:
    """:func:`maml_fast.ops.conv_block`, which computes in the precision of its parameters under autocast."""
    return ops.conv_block(_in_precision_of(weight, x), weight, bias, gamma, beta, **geometry)


def tracking_conv_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    **geometry: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run :func:`conv_block_of_tasks`, and update running statistics [T, Cout] as ``BatchNorm2d`` does in training.

    ``momentum`` is the weight of the batch in the new running statistics. The running variance uses the unbiased
    variance of the batch, which must therefore have more than one value per channel.

    Returns:
        The block's result, the new running mean and the new running variance.
    """
    out, mean, variance = ops.conv_block_with_statistics(
        _in_precision_of(weight, x), weight, bias, gamma, beta, **geometry
    )
    count = x.shape[1] * _pixels(x, weight, geometry["stride"], geometry["padding"])
    of_batch = mean, variance * (count / (count - 1))
    return out, *moved((running_mean, running_var), of_batch, momentum)


def moved(running: Sequence[Tensor], of_batch: Sequence[Tensor], momentum: float) -> tuple[Tensor, Tensor]:
    """Return the running mean and variance after a batch; ``momentum`` is the weight of the batch in them."""
    mean, variance = (torch.lerp(old, new.to(old.dtype), momentum) for old, new in zip(running, of_batch, strict=True))
    return mean, variance


def _check_images(x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"expected images [B, C, H, W], got a tensor of shape {list(x.shape)}")


def _as_one_task(x: Tensor, weight: Tensor, *rest: Tensor | None) -> tuple[Any, ...]:
    """Add a task dimension of size one to the arguments: x [1, B, Cin, H, W], ..."""
    return x[None], weight[None], *(None if tensor is None else tensor[None] for tensor in rest)


def _in_precision_of(weight: Tensor, x: Tensor) -> Tensor:
    if x.dtype is not weight.dtype and torch.is_autocast_enabled(x.device.type):
        return x.to(weight.dtype)  # autocast gave x another dtype in an earlier layer
    return x


def _pixels(x: Tensor, weight: Tensor, stride: int, padding: int) -> int:
    """Return the number of pixels in the convolution's output."""
    side = weight.shape[-1]
    height, width = (ops.output_extent(extent, side, stride, padding) for extent in x.shape[-2:])
    return height * width

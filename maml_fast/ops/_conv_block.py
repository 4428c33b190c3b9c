"""The native conv block under autograd: three Functions, each the derivative of the previous one.

They wrap the private operators of ``csrc/bindings/conv_block_op.h``, which know nothing about autograd. In this module,
images are channels-last, [T, B, H, W, C], and weights are in the order in which the kernels read them,
[T, k, k, Cin, Cout].

Everything that backward needs besides the inputs is an output of forward: ``kept`` (the convolution's output y, or the
patch moments of a thin first layer), ``mean``, ``rstd`` and ``argmax``. Backward is a function of y, and y is an output
like ``out``. The second derivative therefore flows back into the node of forward: its backward adds the gradients of
``out`` and ``y`` before the convolutions, which then run once for both. A thin layer has no y. mean, rstd and argmax
are not independent variables: derivatives treat them as functions of y, or of the inputs of a thin layer.

On a GPU, forward also returns ``x``, ``weight`` and ``gamma`` as it has seen them, and backward is a function of these.
Their second derivatives then flow back into the node of forward too, and its kernels add them to what they write.
Otherwise PyTorch would launch one more kernel for each of these sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

from maml_fast import native
from maml_fast._arguments import int_from, optional, takes

__all__ = ["Arithmetic", "Geometry", "RepeatedImages", "conv_block", "convolved_extent", "output_extent"]

THIN_CHANNELS, THIN_PATCH, THIN_STRIDE = 4, 36, 16  # as ConvBlockShape::Derive in csrc/core/conv_block.h


class Arithmetic(IntEnum):
    """How a GPU multiplies float32, exactly or with rounded factors; numbered as in csrc/cuda/conv_block.h."""

    EXACT = 0
    TF32 = 1
    BFLOAT16 = 2
    FLOAT16 = 3


class Geometry(NamedTuple):
    """The block's constants, in the order of the operators' arguments."""

    stride: int
    padding: int
    pool: bool
    eps: float
    relu_first: bool
    arithmetic: int = Arithmetic.EXACT


class PatchMoments(NamedTuple):
    """The moments of a thin layer's patches, [T, P * (P + 1)] float64, which forward fills unless they are known."""

    values: Tensor
    known: bool


class RepeatedImages:
    """Images that a thin first layer sees at every inner step; what depends on them alone is computed once.

    That is their channels-last form and the moments of their patches. Images that require a gradient are left alone.
    """

    def __init__(self, images: Tensor) -> None:
        self._images = images
        self._version = images._version
        self._forms: dict[tuple[Any, ...], Tensor] = {}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Context in which conv blocks of these images use what is known of them."""
        token = _repeated_images.set(self)
        try:
            yield
        finally:
            _repeated_images.reset(token)

    def have(self, x: Tensor) -> bool:
        """Return whether x is a view of these images with the values that they had at the beginning."""
        is_view = x.untyped_storage()._cdata == self._images.untyped_storage()._cdata
        return is_view and not x.requires_grad and x._version == self._version

    def channels_last(self, x: Tensor) -> Tensor:
        """Return x [T, B, C, H, W] as [T, B, H, W, C]."""
        key = _place(x)
        if key not in self._forms:
            self._forms[key] = _channels_last(x)
        return self._forms[key]

    def moments(self, x: Tensor, weight: Tensor, geometry: Geometry) -> PatchMoments | None:
        """Return the moments of the patches of x [T, B, C, H, W]; ``None`` if the layer isn't thin."""
        patch = _thin_patch(self.channels_last(x), weight, geometry)
        if not patch:
            return None
        key = (*_place(x), weight.shape[1], geometry.stride, geometry.padding)
        known = key in self._forms
        if not known:
            self._forms[key] = x.new_empty(len(x), patch * (patch + 1), dtype=torch.float64)
        return PatchMoments(self._forms[key], known)


def _place(x: Tensor) -> tuple[Any, ...]:
    """Return what tells a view of images from their other views."""
    return x.shape, x.stride(), x.storage_offset()


_repeated_images: ContextVar[RepeatedImages | None] = ContextVar("maml_fast_repeated_images", default=None)


@takes(extent=int_from(0), kernel=int_from(1), stride=int_from(1), padding=int_from(0), pool=optional(int_from(1)))
def output_extent(extent: int, kernel: int, stride: int, padding: int, pool: int | None = None) -> int:
    """Return the height or width, in pixels, after a convolution and a max-pool; below 1 if nothing is left.

    Args:
        extent: height or width of the input.
        kernel: side of the convolution's kernel.
        stride: stride of the convolution.
        padding: zeros around the image, in pixels.
        pool: side and stride of the max-pool window, which rounds down; ``None`` for no pooling.

    Raises:
        TypeError, ValueError: an argument is not an integer or is out of range.
    """
    return convolved_extent(extent, kernel, stride, padding) // (pool or 1)


def convolved_extent(extent: int, kernel: int, stride: int, padding: int) -> int:
    """Return the height or width after the convolution alone, without validating the arguments."""
    return (extent + 2 * padding - kernel) // stride + 1


def conv_block(
    x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | None, beta: Tensor | None, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the native kernels on validated arguments; shapes as in :func:`maml_fast.ops.conv_block`.

    Return the result, and the mean and 1 / sqrt(variance + eps) of the batch norm's input, [T, Cout] each; the latter
    two have no gradients.
    """
    kernel_order = weight.permute(0, 3, 4, 2, 1)  # [T, k, k, Cin, Cout]
    if weight.stride(0) != 0:  # each task's own filters are copied once, not for every derivative
        kernel_order = _task_dense(kernel_order)
    images, moments = _images_in_use(), None
    if images is not None and images.have(x):
        channels_last = images.channels_last(x)
        moments = images.moments(x, kernel_order, geometry)
    else:
        channels_last = _channels_last(x)
    sums = not _is_traced() and _adds_gradients(x.device)
    out, _, mean, rstd, *_ = _Forward.apply(channels_last, kernel_order, bias, gamma, beta, geometry, moments, sums)
    return out.permute(0, 1, 4, 2, 3), mean, rstd


def _adds_gradients(device: torch.device) -> bool:
    """Return whether the kernels of this device add other gradients to those that they compute."""
    return device.type == "cuda"


def _images_in_use() -> RepeatedImages | None:
    return None if _is_traced() else _repeated_images.get()


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 1, 3, 4, 2).contiguous()  # [T, B, H, W, C]; no copy if x is channels-last in memory


MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)


def _task_dense(parameter: MaybeTensor) -> MaybeTensor:
    """Make a parameter contiguous within each task; one that all tasks share (stride 0) stays shared."""
    if parameter is None or parameter.is_contiguous() or (len(parameter) > 1 and parameter[0].is_contiguous()):
        return parameter
    if parameter.stride(0) == 0:
        return parameter[:1].contiguous().expand_as(parameter)
    return parameter.contiguous()


def _fold_tasks(size: int, dim: int | None, argument: Any) -> Any:
    """Fold a vmapped dimension of ``size`` into the leading task dimension: [V, T, ...] -> [V * T, ...]."""
    if not isinstance(argument, Tensor):
        return argument
    batched = argument.expand(size, *argument.shape) if dim is None else argument.movedim(dim, 0)
    return batched.flatten(0, 1)


def _vmap_over_tasks(function: Any, info: Any, in_dims: tuple[int | None, ...], arguments: tuple[Any, ...]) -> Any:
    """Run ``function`` under vmap by folding the mapped dimension into the tasks, over which kernels are batched."""
    folded = [_fold_tasks(info.batch_size, dim, arg) for dim, arg in zip(in_dims, arguments, strict=True)]
    outputs = function.apply(*folded)
    return tuple(o.unflatten(0, (info.batch_size, -1)) if o.numel() else _unfold_empty(o, info) for o in outputs), 0


def _unfold_empty(output: Tensor, info: Any) -> Tensor:
    return output.new_empty(info.batch_size, 0)


def _dense(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.contiguous() for tensor in tensors)


def _saved(x: Tensor, weight: Tensor, gamma: Tensor | None, *of_forward: Tensor) -> tuple[Tensor | None, ...]:
    """Return the tensors that both backward passes read, in the layout that the operators require."""
    return *_dense(x), _task_dense(weight), _task_dense(gamma), *_dense(*of_forward)


def _if_needed(grads: tuple[Tensor, ...], needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    return tuple(grad if need else None for grad, need in zip(grads, needs, strict=True))


class _TaskFunction(torch.autograd.Function):
    """A Function that is called with all its arguments, by position."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Like torch's own, without binding arguments to names, which takes longer than everything else together."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        return super(torch.autograd.Function, cls).apply(*unwrap_dead_wrappers(args))  # type: ignore[misc]


class _Forward(_TaskFunction):
    """Outputs: out, kept, mean, rstd, argmax.

    If ``sums``, those of x, weight and gamma that require a gradient are outputs too.
    """

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        geometry: Geometry,
        moments: PatchMoments | None,
        sums: bool,
    ) -> tuple[Tensor, ...]:
        parameters = (_task_dense(parameter) for parameter in (weight, bias, gamma, beta))
        outputs = torch.ops.maml_fast.conv_block_forward(x.contiguous(), *parameters, *geometry, *(moments or ()))
        seen = (x, weight, gamma) if sums else ()
        return *outputs, *(tensor.detach() for tensor in seen if _has_gradient(tensor))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, gamma, _, geometry, _, sums = inputs
        _, kept, *functions_of_y = output[:5]
        ctx.is_seen = tuple(sums and _has_gradient(tensor) for tensor in (x, weight, gamma))
        seen = iter(output[5:])
        variables = zip((x, weight, gamma), ctx.is_seen, strict=True)
        ctx.save_for_backward(*(next(seen) if is_seen else own for own, is_seen in variables), kept, *functions_of_y)
        ctx.geometry = geometry
        ctx.mark_non_differentiable(*functions_of_y, *(() if _is_y(kept) else (kept,)))
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return _vmap_over_tasks(_Forward, info, in_dims, arguments)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_y: Tensor | None, *rest: Any) -> tuple[Tensor | None, ...]:
        of_seen = iter(rest[3:])
        more_x, more_weight, more_gamma = more = [next(of_seen) if is_seen else None for is_seen in ctx.is_seen]
        if grad_out is None and grad_y is None:
            return more_x, more_weight, None, more_gamma, *(None,) * 4
        x, _, _, kept, *_, argmax = saved = ctx.saved_tensors
        if not _is_y(kept):
            grad_y = None  # torch.compile passes zeros
        if grad_out is None:
            grad_out = torch.zeros_like(argmax, dtype=x.dtype)
        needs = ctx.needs_input_grad
        grads = _Backward.apply(grad_out, grad_y, *saved, ctx.geometry, needs[0], *more)
        return *_if_needed(grads, needs[:5]), *(None,) * 3


class _Backward(_TaskFunction):
    """Outputs: grad_x (empty unless needed), grad_weight, grad_bias, grad_gamma, grad_beta.

    ``more_x``, ``more_weight`` and ``more_gamma`` are added to the first, the second and the fourth.
    """

    @staticmethod
    def forward(
        grad_out: Tensor,
        grad_y: Tensor | None,
        x: Tensor,
        weight: Tensor,
        gamma: Tensor | None,
        kept: Tensor,
        mean: Tensor,
        rstd: Tensor,
        argmax: Tensor,
        geometry: Geometry,
        needs_grad_x: bool,
        more_x: Tensor | None,
        more_weight: Tensor | None,
        more_gamma: Tensor | None,
    ) -> tuple[Tensor, ...]:
        saved = _saved(x, weight, gamma, kept, mean, rstd, argmax)
        more = _dense(more_x, more_weight, more_gamma)
        return torch.ops.maml_fast.conv_block_backward(
            *_dense(grad_out, grad_y), *saved, *geometry, needs_grad_x, *more
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        grad_out, grad_y, *saved, geometry, needs_grad_x, _, _, _ = inputs
        ctx.save_for_backward(grad_out, *saved)
        ctx.geometry = geometry
        ctx.has_grad_x = needs_grad_x
        ctx.is_second_order = any(each is not None for each in (grad_y, *inputs[-3:]))
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return _vmap_over_tasks(_Backward, info, in_dims, arguments)

    @staticmethod
    def backward(ctx: Any, *gg: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in gg):
            return (None,) * 14
        if ctx.is_second_order:
            raise RuntimeError(_NO_THIRD_DERIVATIVE)
        gg_x = gg[0] if ctx.has_grad_x else None
        grad_out_needed, _, x_needed, weight_needed, gamma_needed, y_needed, *_ = ctx.needs_input_grad
        grads = _DoubleBackward.apply(gg_x, *gg[1:], *ctx.saved_tensors, ctx.geometry, x_needed)
        needs = (grad_out_needed, x_needed, weight_needed, gamma_needed, y_needed)
        grad_grad_out, *rest = _if_needed(grads, needs)
        return grad_grad_out, None, *rest, *(None,) * 8


class _DoubleBackward(_TaskFunction):
    """Outputs: grad_grad_out, grad_x (empty unless needed), grad_weight, grad_gamma, grad_y (empty if thin)."""

    @staticmethod
    def forward(
        gg_x: Tensor | None,
        gg_weight: Tensor | None,
        gg_bias: Tensor | None,
        gg_gamma: Tensor | None,
        gg_beta: Tensor | None,
        grad_out: Tensor,
        x: Tensor,
        weight: Tensor,
        gamma: Tensor | None,
        kept: Tensor,
        mean: Tensor,
        rstd: Tensor,
        argmax: Tensor,
        geometry: Geometry,
        needs_grad_x: bool,
    ) -> tuple[Tensor, ...]:
        of_parameters = map(_task_dense, (gg_weight, gg_bias, gg_gamma, gg_beta))
        gg = (*_dense(gg_x), *of_parameters, *_dense(grad_out))
        saved = _saved(x, weight, gamma, kept, mean, rstd, argmax)
        return torch.ops.maml_fast.conv_block_double_backward(*gg, *saved, *geometry, needs_grad_x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return _vmap_over_tasks(_DoubleBackward, info, in_dims, arguments)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(_NO_THIRD_DERIVATIVE)


_NO_THIRD_DERIVATIVE = (
    "the native conv_block has no third derivative: for that, run inside "
    "maml_fast.use_backend('reference'), whose operations differentiate any number of times"
)


def _has_gradient(tensor: Tensor | None) -> TypeGuard[Tensor]:
    return tensor is not None and tensor.requires_grad


def _is_y(kept: Tensor) -> bool:
    return kept.dim() == 5  # [T, B, OH, OW, Cout]; a thin layer's patch moments are [T, P * (P + 1)]


def _thin_patch(x: Tensor, weight: Tensor, geometry: Geometry) -> int:
    """Return the number of values in a patch of a thin layer; 0 if the layer isn't thin."""
    patch = weight.shape[1] * weight.shape[2] * weight.shape[3]
    thin = x.shape[4] <= THIN_CHANNELS and patch <= THIN_PATCH and geometry.stride <= THIN_STRIDE
    return patch if thin and not geometry.relu_first else 0


def _forward_shapes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    stride: int,
    padding: int,
    pool: bool,
    eps: float,
    relu_first: bool,
    arithmetic: int,
    moments: Tensor | None = None,
    moments_known: bool = False,
) -> tuple[Tensor, ...]:
    tasks, batch, height, width, _ = x.shape
    kernel, channels = weight.shape[1], weight.shape[4]
    patch = _thin_patch(x, weight, Geometry(stride, padding, pool, eps, relu_first))
    conv = [convolved_extent(extent, kernel, stride, padding) for extent in (height, width)]
    out = [extent // 2 if pool else extent for extent in conv]
    return (
        x.new_empty(tasks, batch, *out, channels),
        x.new_empty(tasks, patch * (patch + 1)) if patch else x.new_empty(tasks, batch, *conv, channels),
        x.new_empty(tasks, channels),
        x.new_empty(tasks, channels),
        x.new_empty(tasks, batch, *out, channels, dtype=torch.uint8),
    )


def _backward_shapes(
    grad_out: Tensor,
    grad_y: Tensor | None,
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    kept: Tensor,
    mean: Tensor,
    rstd: Tensor,
    argmax: Tensor,
    stride: int,
    padding: int,
    pool: bool,
    eps: float,
    relu_first: bool,
    arithmetic: int,
    needs_grad_x: bool,
    more_x: Tensor | None = None,
    more_weight: Tensor | None = None,
    more_gamma: Tensor | None = None,
) -> tuple[Tensor, ...]:
    channels = weight.shape[0], weight.shape[4]
    return _grad_x_like(x, needs_grad_x), x.new_empty(weight.shape), *(x.new_empty(channels) for _ in range(3))


def _double_backward_shapes(
    gg_x: Tensor,
    gg_weight: Tensor,
    gg_bias: Tensor,
    gg_gamma: Tensor,
    gg_beta: Tensor,
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    gamma: Tensor | None,
    kept: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return (
        torch.empty_like(grad_out),
        _grad_x_like(x, rest[-1]),
        x.new_empty(weight.shape),
        x.new_empty(weight.shape[0], weight.shape[4]),
        torch.empty_like(kept) if _is_y(kept) else x.new_empty(0),
    )


def _grad_x_like(x: Tensor, needed: bool) -> Tensor:
    return torch.empty_like(x) if needed else x.new_empty(0)


@native.when_loaded
def _register_shapes() -> None:
    """Register the operators' output shapes for torch.compile, once the library that defines them is loaded."""
    torch.library.register_fake("maml_fast::conv_block_forward", _forward_shapes)
    torch.library.register_fake("maml_fast::conv_block_backward", _backward_shapes)
    torch.library.register_fake("maml_fast::conv_block_double_backward", _double_backward_shapes)

"""Convolutions, pools and other operations that treat each image independently."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maml_fast.program._operations.table import Call, Step, Value, aten, row, with_constants

_RANKS = {  # the rank of a batch of images
    **dict.fromkeys((aten.avg_pool1d, aten.max_pool1d, aten.reflection_pad1d, aten.replication_pad1d), 3),
    **dict.fromkeys((aten.upsample_nearest1d, aten.upsample_linear1d), 3),
    **dict.fromkeys((aten.avg_pool2d, aten.max_pool2d_with_indices, aten.max_pool2d, aten.im2col, aten.col2im), 4),
    **dict.fromkeys((aten._adaptive_avg_pool2d, aten.adaptive_avg_pool2d, aten.adaptive_max_pool2d), 4),
    **dict.fromkeys((aten.reflection_pad2d, aten.replication_pad2d, aten.pixel_shuffle, aten.pixel_unshuffle), 4),
    **dict.fromkeys((aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d), 4),
    **dict.fromkeys((aten.avg_pool3d, aten.max_pool3d_with_indices, aten._adaptive_avg_pool3d), 5),
    **dict.fromkeys((aten.upsample_nearest3d, aten.upsample_trilinear3d), 5),
}


@row(*_RANKS)
def _per_image(call: Call, model_input: Value) -> Step | None:
    """Run on the images of all tasks as one batch."""
    if [len(value.shape) for value in call.operands] != [_RANKS[call.operation.overloadpacket]]:
        return None
    run = with_constants(call)

    def fold(x: Tensor) -> Any:
        out = run(x.flatten(0, 1))
        if isinstance(out, Tensor):
            return out.unflatten(0, x.shape[:2])
        return tuple(each.unflatten(0, x.shape[:2]) for each in out)

    return Step(fold, call.operands)


@row(aten.convolution)
def _convolution(call: Call, model_input: Value) -> Step | None:
    """Run the convolutions of all tasks as groups of a single one."""
    x, weight, *_ = call.operands
    if len(x.shape) != len(weight.shape):  # a single image
        return None
    convolution, groups = call.operation, call.arguments["groups"]
    options = [call.arguments[name] for name in ("stride", "padding", "dilation", "transposed", "output_padding")]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        n_tasks = len(x)
        # Native blocks return channels-last images; on these, PyTorch's strided 1x1 convolutions may crash in backward.
        images = x.transpose(0, 1).flatten(1, 2).contiguous()  # [N, T * C, ...]
        bias = None if bias is None else bias.flatten()
        out = convolution(images, weight.flatten(0, 1), bias, *options, n_tasks * groups)
        return out.unflatten(1, (n_tasks, -1)).transpose(0, 1)

    return Step(run, call.operands)

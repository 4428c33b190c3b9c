"""Norms that use the statistics of their own input."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from maml_fast.lowering._numbers import ABSENT, Kind
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import NotNativeError, View, channels_last
from maml_fast.lowering._writer import Writer
from maml_fast.nn import batch_stat_norm
from maml_fast.program._operations import Call

__all__ = ["batch_norm"]

aten = torch.ops.aten
NO_EPILOGUE = (ABSENT, 0)  # no function and no pool after the norm


@row(F.batch_norm, aten.native_batch_norm)
def _batch_norm(w: Writer, call: Call, a: Arguments) -> list[View | None]:
    if not a["training"]:
        raise NotNativeError("batch norm with running statistics has no native form")
    result = batch_norm(w, a["input"], a["weight"], a["bias"], a["eps"])
    return [result, *(None for _ in call.results[1:])]


@row(batch_stat_norm)
def _batch_stat_norm(w: Writer, call: Call, a: Arguments) -> View:
    return batch_norm(w, a["x"], a["weight"], a["bias"], a["eps"])


def batch_norm(w: Writer, x: View, weight: View | None, bias: View | None, eps: float) -> View:
    """Batch norm of x [N, C, ...] with the batch's own statistics, over all dimensions except the channels."""
    channels = x.shape[1]
    return _norm(
        w, x, channels_last(len(x.shape)), weight, bias, eps, [1, x.shape.numel() // channels, channels, channels]
    )


@row(aten.native_group_norm)
def _group_norm(w: Writer, call: Call, a: Arguments) -> list[View | None]:
    x, groups = a["input"], a["group"]
    images, channels = x.shape[:2]
    numbers = [images, x.shape[2:].numel(), channels, groups]
    result = _norm(w, x, channels_last(len(x.shape)), a["weight"], a["bias"], a["eps"], numbers)
    return [result, None, None]


@row(F.instance_norm)
def _instance_norm(w: Writer, call: Call, a: Arguments) -> View:
    x = a["input"]
    images, channels = x.shape[:2]
    numbers = [images, x.shape[2:].numel(), channels, channels]
    return _norm(w, x, channels_last(len(x.shape)), a["weight"], a["bias"], a["eps"], numbers)


@row(aten.native_layer_norm)
def _layer_norm(w: Writer, call: Call, a: Arguments) -> list[View | None]:
    x = a["input"]
    width = torch.Size(a["normalized_shape"]).numel()
    numbers = [x.shape.numel() // width, 1, width, 1]
    return [_norm(w, x, range(len(x.shape)), a["weight"], a["bias"], a["eps"], numbers), None, None]


def _norm(
    w: Writer, x: View, order: Iterable[int], weight: View | None, bias: View | None, eps: float, numbers: list[int]
) -> View:
    order = tuple(order)
    operands = [w.contiguous(x, order), *(None if each is None else w.contiguous(each) for each in (weight, bias))]
    return w.write(Kind.NORM, operands, w.new(x.shape, order), [*numbers, *NO_EPILOGUE], [eps])

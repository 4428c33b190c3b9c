"""Matrix products, and embeddings."""

from __future__ import annotations

import torch

from maml_fast.lowering._numbers import Kind
from maml_fast.lowering._product import Product
from maml_fast.lowering._rows.arithmetic import add
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import NotNativeError, View
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call

__all__ = ["linear"]

aten = torch.ops.aten


@row(aten.mm)
def _mm(w: Writer, call: Call, a: Arguments) -> View:
    return linear(w, a["self"], a["mat2"])


@row(aten.bmm)
def _bmm(w: Writer, call: Call, a: Arguments) -> View:
    return linear(w, a["self"], a["mat2"])


@row(aten.addmm)
def _addmm(w: Writer, call: Call, a: Arguments) -> View:
    bias, x, weight = a["self"], a["mat1"], a["mat2"]
    if (a["beta"], a["alpha"]) == (1, 1) and bias.shape == weight.shape[1:]:
        return linear(w, x, weight, bias)
    return add(w, linear(w, x, weight), bias, a["alpha"], a["beta"])


@row(aten.baddbmm)
def _baddbmm(w: Writer, call: Call, a: Arguments) -> View:
    return add(w, linear(w, a["batch1"], a["batch2"]), a["self"], a["alpha"], a["beta"])


def linear(w: Writer, x: View, weight: View, bias: View | None = None) -> View:
    """``x @ weight + bias`` for x [..., N, I] and weight [..., I, O]."""
    x, weight = w.contiguous(x), w.contiguous(weight)
    *repeated, rows, n_in = x.shape
    n_out = weight.shape[-1]
    matrices = repeated[0] if repeated else 1
    result = w.new((*repeated, rows, n_out))
    numbers = Product.dense(matrices, rows, n_in, n_out).numbers()
    return w.write(Kind.PRODUCT, [x, weight, None if bias is None else w.contiguous(bias)], result, numbers, [1.0])


@row(aten.embedding)
def _embedding(w: Writer, call: Call, a: Arguments) -> View:
    if a["scale_grad_by_freq"] or a["sparse"]:
        raise NotNativeError("embedding has no native form with scaled or sparse gradients")
    weight, indices = a["weight"], a["indices"]
    if indices.buffer in w.aranges and len(indices.shape) == 1:
        return weight.map(lambda table: table[: indices.shape[0]])
    weight = w.contiguous(weight)
    entries, width = weight.shape
    if indices.buffer != w.input:
        raise NotNativeError("embedding has a native form only on the model's input")
    w.takes_whole, w.entries = True, min(entries, w.entries or entries)
    indices = w.contiguous(indices)
    result = w.new((*indices.shape, width))
    return w.write(Kind.EMBEDDING, [weight, indices], result, [indices.shape.numel(), entries, width, a["padding_idx"]])


@row(aten._to_copy)
def _convert(w: Writer, call: Call, a: Arguments) -> View:
    """Inputs or targets in another dtype; since they must then be integers, the conversion changes no value."""
    is_floating = call.result.dtype.is_floating_point
    if a["self"].buffer != w.input and not (a["self"].buffer == w.targets and is_floating):
        raise NotNativeError("conversion to another dtype has no native form")
    w.takes_whole = w.takes_whole or not is_floating
    return a["self"]

"""The parts of losses: negative log-likelihoods, errors, indexing by labels, and their means."""

from __future__ import annotations

import torch

from maml_fast.lowering._numbers import Function, Kind
from maml_fast.lowering._rows.arithmetic import add, multiply
from maml_fast.lowering._rows.reductions import total
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import NotNativeError, View, channels_last
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call

aten = torch.ops.aten
IGNORED = -100  # kIgnored in csrc/core/inner_loop.h
NO_INDEX = -(2**40)  # never a valid index, so that none is ignored

_NONE, _MEAN, _SUM = range(3)  # PyTorch's reductions


@row(aten.nll_loss_forward, aten.nll_loss2d_forward)
def _nll_loss(w: Writer, call: Call, a: Arguments) -> list[View | None]:
    x, target, reduction, ignored = a["self"], a["target"], a["reduction"], a["ignore_index"]
    if ignored != IGNORED:  # the kernels use this one to check labels and count predictions
        raise NotNativeError(f"nll_loss has a native form only for ignore_index={IGNORED}")
    counted = _complement(w, w.pointwise(Function.EQUAL, target, ignored))
    weights = counted
    if a["weight"] is not None:
        spread = a["weight"].map(lambda weight: weight.view(1, -1, *(1,) * (len(x.shape) - 2)).expand(x.shape))
        weights = _pick(w, spread, target, ignored)
    losses = multiply(w, _pick(w, x, target, ignored), w.pointwise(Function.AFFINE, weights, -1, 0))
    if reduction == _NONE:
        return [losses, None]
    loss = total(w, losses)
    if reduction == _MEAN:
        loss = multiply(w, loss, w.pointwise(Function.RECIPROCAL, total(w, weights)))
    return [loss, None]


@row(aten.gather)
def _gather(w: Writer, call: Call, a: Arguments) -> View:
    x, index, dim = a["self"], a["index"], a["dim"] % len(a["self"].shape)
    if len(x.shape) == 1:  # every index picks from the same vector
        return _pick(w, x.map(lambda tensor: tensor.expand(index.shape[0], -1)), index, NO_INDEX)
    rest = [size for place, size in enumerate(x.shape) if place != dim]
    if index.shape[dim] != 1 or [size for place, size in enumerate(index.shape) if place != dim] != rest:
        raise NotNativeError("gather has a native form only for one index per row")
    rows = x.map(lambda tensor: tensor.movedim(dim, 1))
    picked = _pick(w, rows, index.map(lambda tensor: tensor.squeeze(dim)), NO_INDEX)
    return picked.map(lambda tensor: tensor.unsqueeze(dim))


@row(aten.index)
def _index(w: Writer, call: Call, a: Arguments) -> View:
    """``x[torch.arange(len(x)), labels]``."""
    x, indices = a["self"], a["indices"]
    if len(x.shape) != 2 or len(indices) != 2 or indices[0] is None or indices[0].buffer not in w.aranges:
        raise NotNativeError("indexing has a native form only as x[torch.arange(len(x)), labels]")
    return _pick(w, x, indices[1], NO_INDEX)


@row(aten.arange)
def _arange(w: Writer, call: Call, a: Arguments) -> View:
    """0, 1, 2, ...: usable only as an index; no operation computes it."""
    if a.get("start", 0) != 0 or a.get("step", 1) != 1:
        raise NotNativeError("arange has a native form only from 0 in steps of 1")
    result = w.new(call.result.shape)
    w.aranges.add(result.buffer)
    return result


def _pick(w: Writer, x: View, index: View, ignored: int) -> View:
    """x[n, index[n, ...], ...] for x [N, C, ...], and 0 where the index equals ``ignored``."""
    if index.buffer in w.depends:
        raise NotNativeError("indexing by values that depend on parameters has no native form")
    w.n_choices = min(x.shape[1], w.n_choices or x.shape[1])
    x = w.contiguous(x, channels_last(len(x.shape)))
    result = w.new(index.shape)
    return w.write(Kind.PICK, [x, w.contiguous(index)], result, [index.shape.numel(), x.shape[1], ignored])


def _complement(w: Writer, x: View) -> View:
    """1 - x, the logical not of x with values 0 and 1."""
    return w.pointwise(Function.AFFINE, x, -1, 1)


@row(aten.eq)
def _eq(w: Writer, call: Call, a: Arguments) -> View:
    if isinstance(a["other"], View) or a["self"].buffer in w.depends:
        raise NotNativeError("eq has a native form only between targets and a number")
    return w.pointwise(Function.EQUAL, a["self"], a["other"])


@row(aten.logical_not, aten.bitwise_not)
def _not(w: Writer, call: Call, a: Arguments) -> View:
    if call.result.dtype != torch.bool:
        raise NotNativeError("bitwise_not of integers has no native form")
    return _complement(w, a["self"])


@row(aten.masked_fill)
def _masked_fill(w: Writer, call: Call, a: Arguments) -> View:
    x, mask, value = a["self"], a["mask"], a["value"]
    if isinstance(value, View):
        raise NotNativeError("masked_fill with a tensor as value has no native form")
    kept = multiply(w, x, _complement(w, mask))
    return kept if value == 0 else add(w, kept, mask, 1, value)


@row(aten.mse_loss)
def _mse_loss(w: Writer, call: Call, a: Arguments) -> View:
    error = add(w, a["self"], a["target"], 1, -1)
    return _reduced(w, w.pointwise(Function.SQUARE, error), a["reduction"])


@row(aten.l1_loss)
def _l1_loss(w: Writer, call: Call, a: Arguments) -> View:
    return _reduced(w, w.pointwise(Function.ABS, add(w, a["self"], a["target"], 1, -1)), a["reduction"])


@row(aten.huber_loss, aten.smooth_l1_loss)
def _huber_loss(w: Writer, call: Call, a: Arguments) -> View:
    """Huber loss; the smooth L1 loss is the Huber loss divided by beta."""
    threshold = a["delta"] if "delta" in a else a["beta"]
    if threshold <= 0:
        raise NotNativeError("a Huber or smooth L1 loss without a quadratic part has no native form")
    losses = w.pointwise(Function.HUBER, add(w, a["self"], a["target"], 1, -1), threshold)
    if "beta" in a:
        losses = w.pointwise(Function.AFFINE, losses, 1 / threshold, 0)
    return _reduced(w, losses, a["reduction"])


@row(aten.binary_cross_entropy_with_logits)
def _binary_cross_entropy(w: Writer, call: Call, a: Arguments) -> View:
    """softplus(-x) + (1 - t) x, with ``pos_weight`` p as (1 + (p - 1) t) softplus(-x) + (1 - t) x."""
    x, target, of_positive = a["self"], a["target"], a["pos_weight"]
    positive = w.pointwise(Function.LOG_SIGMOID, x)  # -softplus(-x)
    if of_positive is not None:
        factor = multiply(w, target, w.pointwise(Function.AFFINE, of_positive, 1, -1))
        positive = multiply(w, positive, w.pointwise(Function.AFFINE, factor, 1, 1))
    losses = add(w, multiply(w, x, _complement(w, target)), positive, 1, -1)
    if a["weight"] is not None:
        losses = multiply(w, losses, a["weight"])
    return _reduced(w, losses, a["reduction"])


def _reduced(w: Writer, losses: View, reduction: int) -> View:
    return losses if reduction == _NONE else total(w, losses, mean=reduction == _MEAN)

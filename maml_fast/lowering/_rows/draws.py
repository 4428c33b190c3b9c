"""Random numbers, which dropout is made of."""

from __future__ import annotations

import torch

from maml_fast.lowering._numbers import Kind
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import NotNativeError, View, channels_last
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call

aten = torch.ops.aten


@row(aten.empty_like, aten.new_empty)
def _empty(w: Writer, call: Call, a: Arguments) -> View:
    """A buffer that no operation writes: its values don't matter, only its shape, to what draws random numbers."""
    return w.new(call.result.shape)


@row(aten.bernoulli)
def _bernoulli(w: Writer, call: Call, a: Arguments) -> View:
    if not isinstance(a.get("p"), float) or a.get("generator") is not None:
        raise NotNativeError("bernoulli with a tensor of probabilities, or a generator, has no native form")
    shape = call.result.shape
    result = w.new(shape, channels_last(len(shape)) if len(shape) == 4 else None)  # as images are, which it scales
    w.n_draws += 1
    return w.write(Kind.DRAW, [], result, [shape.numel(), w.n_draws - 1], [a["p"]])

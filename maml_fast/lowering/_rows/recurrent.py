"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from maml_fast.lowering._numbers import Kind
from maml_fast.lowering._rows.arithmetic import add
from maml_fast.lowering._rows.products import linear
from maml_fast.lowering._rows.table import Arguments, row
from maml_fast.lowering._views import NotNativeError, View
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call

aten = torch.ops.aten

_LSTM = 2  # oneDNN's number for the mode


@row(aten.mkldnn_rnn_layer)
def _lstm_of_onednn(w: Writer, call: Call, a: Arguments) -> Sequence[View | None]:
    """One direction of a ``torch.nn.LSTM`` layer on x [L, N, I], with gates in PyTorch's order i, f, g, o."""
    if a["mode"] != _LSTM or a["batch_sizes"]:
        raise NotNativeError(
            "a recurrent layer that is not an LSTM, or that takes packed sequences, has no native form"
        )
    x, of_input, of_hidden = a["input"], a["weight0"], a["weight1"]
    length, images, width = x.shape
    size = a["hx_"].shape[-1]
    bias = add(w, a["weight2"], a["weight3"], 1, 1) if a["has_biases"] else None
    rows = w.contiguous(x).map(lambda tensor: tensor.view(length * images, width))
    gates = linear(w, rows, of_input.map(torch.Tensor.t), bias)
    first = w.new((2, images, size))
    for i, state in enumerate((a["hx_"], a["cx_"])):
        w.copy(state.map(lambda each: each.view(images, size)), first.map(lambda both, at=i: both[at]))  # type: ignore[misc]
    result = w.new((length + 1, images, size))
    operands = [gates, w.contiguous(of_hidden.map(torch.Tensor.t)), first]
    w.write(Kind.LSTM, operands, result, [length, images, size, a["reverse"]])
    last = result.map(lambda states: states[0 if a["reverse"] else length - 1])
    cell = result.map(lambda states: states[length])
    shape = call.results[1].shape  # type: ignore[union-attr]
    return [
        result.map(lambda states: states[:length]),
        *(each.map(lambda t: t.view(shape)) for each in (last, cell)),
        None,
    ]

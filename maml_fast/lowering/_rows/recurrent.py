"""Recurrent layers, unrolled step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from maml_fast.lowering._numbers import Function
from maml_fast.lowering._rows.arithmetic import add, multiply
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
    hidden, cell = (each.map(lambda state: state.view(images, -1)) for each in (a["hx_"], a["cx_"]))
    size = hidden.shape[1]
    bias = add(w, a["weight2"], a["weight3"], 1, 1) if a["has_biases"] else None
    rows = w.contiguous(x).map(lambda tensor: tensor.view(length * images, width))
    input_gates = linear(w, rows, of_input.map(torch.Tensor.t), bias).map(
        lambda gates: gates.view(length, images, 4 * size)
    )
    matrix = w.contiguous(of_hidden.map(torch.Tensor.t))
    result = w.new((length, images, size))
    for step in range(length):
        place = length - 1 - step if a["reverse"] else step
        gates = add(w, input_gates.map(lambda gates, at=place: gates[at]), linear(w, hidden, matrix), 1, 1)  # type: ignore[misc]
        parts = [gates.map(lambda gates, i=i: gates[:, i * size : (i + 1) * size]) for i in range(4)]  # type: ignore[misc]
        enter, forget, leave = (w.pointwise(Function.SIGMOID, parts[i]) for i in (0, 1, 3))
        cell = add(w, multiply(w, forget, cell), multiply(w, enter, w.pointwise(Function.TANH, parts[2])), 1, 1)
        hidden = multiply(w, leave, w.pointwise(Function.TANH, cell))
        w.copy(hidden, result.map(lambda states, at=place: states[at]))  # type: ignore[misc]
    last = [state.map(lambda each: each.view(call.results[1].shape)) for state in (hidden, cell)]  # type: ignore[union-attr]
    return [result, *last, None]

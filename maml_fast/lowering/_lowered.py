"""Lowers a model and its loss, on support inputs and on query inputs, for the native kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from maml_fast.lowering._fusing import fuse
from maml_fast.lowering._numbers import ABSENT, Operation
from maml_fast.lowering._rows import write_call
from maml_fast.lowering._views import NotNativeError, View, channels_last
from maml_fast.lowering._writer import Writer
from maml_fast.nn import conv_block
from maml_fast.ops import LoweredModel
from maml_fast.program import Program
from maml_fast.program._operations import Value

__all__ = ["OF_LOSS", "Lowered", "Scored", "lower"]

aten = torch.ops.aten
OF_LOSS = "loss_fn: "  # prefix of the names of the loss's own tensors


class Scored(NamedTuple):
    """A model's program for one kind of inputs, and its loss's program for the resulting logits and their targets."""

    model: Program
    loss: Program


class Lowered(NamedTuple):
    """A model and its loss that the native kernels can run.

    names: names of the tensors that it reads, in the kernels' order; those of the loss begin with :data:`OF_LOSS`.
    model: the layouts and programs that the kernels take.
    takes_whole: whether the inputs must be integers.
    entries: if not ``None``, integer inputs must be below this.
    is_random: whether it draws random numbers.
    """

    names: tuple[str, ...]
    model: LoweredModel
    takes_whole: bool
    entries: int | None
    is_random: bool


@lru_cache(maxsize=32)
def lower(support: Scored, query: Scored, judged: bool) -> Lowered | str:
    """Lower both programs, or return why one has no native form.

    judged: whether predictions are compared with labels.
    """
    tensors = {**_named(support), **_named(query)}
    if integers := [name for name, value in tensors.items() if not value.dtype.is_floating_point]:
        return f"{integers[0]} holds integers, which have no native form"
    orders = {**_orders(query.model), **_orders(support.model)}
    layouts = [number for name, value in tensors.items() for number in _layout(value, orders.get(name))]
    try:
        written = [_write(scored, tensors, orders) for scored in (support, query)]
    except NotNativeError as why:
        return str(why)
    writers = [w for w, *_ in written]
    predicted = [_prediction_buffer(w, logits, judged) for w, logits, _ in written]
    fused = [
        fuse(w.operations, w.sizes, {loss.buffer, logits.buffer, predictions[0]})
        for (w, logits, loss), predictions in zip(written, predicted, strict=True)
    ]
    of_support, of_queries = (
        _encode(w, operations, loss, predictions, len(tensors))
        for (w, _, loss), operations, predictions in zip(written, fused, predicted, strict=True)
    )
    n_choices = [w.n_choices for w in writers if w.n_choices is not None]
    entries = [w.entries for w in writers if w.entries is not None]
    model = LoweredModel(layouts, of_support, of_queries, min(n_choices, default=0))
    takes_whole = any(w.takes_whole for w in writers)
    is_random = any(w.n_draws for w in writers)
    return Lowered(tuple(tensors), model, takes_whole, min(entries, default=None), is_random)


def _named(scored: Scored) -> dict[str, Value]:
    """The tensors that the model and the loss read, by name."""
    found = {value.name: value for line in scored.model.lines for value in line.call.operands if value.name}
    of_loss = {value.name: value for line in scored.loss.lines for value in line.call.operands if value.name}
    return {**found, **{OF_LOSS + name: value for name, value in of_loss.items()}}


def _orders(program: Program) -> dict[str, tuple[int, ...]]:
    """The memory order of filters and of linear layers' weights, in which the kernels read them without copies."""
    orders: dict[str, tuple[int, ...]] = {}
    transposed = {
        line.call.result: line.call.operands[0] for line in program.lines if line.call.operation is aten.t.default
    }
    for line in program.lines:
        arguments = line.call.arguments
        if line.call.operation in (aten.convolution.default, conv_block):
            weight = arguments["weight"]
        elif line.call.operation in (aten.mm.default, aten.addmm.default):
            weight = transposed.get(arguments["mat2"])
        else:
            continue
        if weight is not None and weight.name:
            orders.setdefault(weight.name, (*range(2, len(weight.shape)), 1, 0))
    return orders


def _layout(value: Value, order: Sequence[int] | None) -> tuple[int, int, int, int]:
    """The ``Layout`` (``csrc/core/inner_loop.h``) of a parameter: PyTorch's [a][b][c] is [c][b][a] to the kernels."""
    if order is None:
        return 1, value.shape.numel(), 1, 1
    out_channels, in_channels, *kernel = value.shape
    return 1, out_channels, in_channels, torch.Size(kernel).numel()


def _write(
    scored: Scored, tensors: Mapping[str, Value], orders: Mapping[str, Sequence[int]]
) -> tuple[Writer, View, View]:
    """Write model and loss as one program; return it with the views of the logits and of the loss."""
    model, loss = scored
    if len(model.inputs) != 1 or model.updates or loss.updates:
        raise NotNativeError("a model that takes several inputs, or updates buffers, has no native form")
    w = Writer()
    named: dict[str, View] = {}
    for name, value in tensors.items():
        if not name.startswith(OF_LOSS):
            w.depends.add(len(w.sizes))
        named[name] = w.new(value.shape, orders.get(name))
    inputs, targets = w.new(model.input.shape), w.new(loss.inputs[1].shape)
    w.input, w.targets = inputs.buffer, targets.buffer
    logits = _write_program(w, model, {model.input: inputs}, named)
    result = _write_program(w, loss, dict(zip(loss.inputs, (logits, targets), strict=True)), _loss_tensors(named))
    if result.buffer not in w.depends or result.buffer <= w.targets:
        raise NotNativeError("a loss that depends on no parameter has no native form")
    return w, logits, w.contiguous(result)


def _loss_tensors(named: Mapping[str, View]) -> dict[str, View]:
    return {name.removeprefix(OF_LOSS): view for name, view in named.items() if name.startswith(OF_LOSS)}


def _write_program(w: Writer, program: Program, views: dict[Value, View], named: Mapping[str, View]) -> View:
    """Write one program, given the views of its inputs; return the view of its result."""
    _check_types(program)

    def view_of(argument: Any) -> Any:
        if isinstance(argument, Value):
            return named[argument.name] if argument.name else views[argument]
        return [view_of(each) for each in argument] if isinstance(argument, list) else argument

    for line in program.lines:
        call = line.call
        results = write_call(w, call, {name: view_of(value) for name, value in call.arguments.items()})
        pairs = zip(call.results, results, strict=True)
        views.update({value: view for value, view in pairs if value is not None and view is not None})
    if program.result not in views:
        raise NotNativeError("a result that is one of the inputs, or a parameter, has no native form")
    return views[program.result]


def _check_types(program: Program) -> None:
    """Require one floating-point dtype of all values that are used, apart from int64 and bool ones."""
    used = {value for line in program.lines for value in line.call.operands} | {program.result}
    types = {value.dtype for value in used} - {torch.int64, torch.bool}
    if len(types) != 1 or not types <= {torch.float32, torch.float64}:
        raise NotNativeError(f"tensors of {', '.join(sorted(map(str, types)))} have no native form")


def _prediction_buffer(w: Writer, logits: View, judged: bool) -> tuple[int, int]:
    """The buffer of the logits, channels last, and their number of classes; ``ABSENT`` and 0 unless ``judged``."""
    if not judged:
        return ABSENT, 0
    return w.contiguous(logits, channels_last(len(logits.shape))).buffer, logits.shape[1]


def _encode(
    w: Writer, operations: Sequence[Operation], loss: View, predictions: tuple[int, int], parameters: int
) -> tuple[list[int], list[float]]:
    """Encode a program as ``csrc/bindings/program_loop.cpp`` reads it: integers, and all factors."""
    numbers = [parameters, loss.buffer, *predictions, len(w.sizes), *w.sizes, len(operations)]
    for operation in operations:
        numbers += operation.encode()
    return numbers, [factor for operation in operations for factor in operation.factors]

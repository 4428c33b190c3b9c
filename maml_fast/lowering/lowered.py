"""A model's programs for support inputs and for queries, written for the native kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from maml_fast.lowering.rows import write_call
from maml_fast.lowering.views import NotNativeError, View, channels_last, identity
from maml_fast.lowering.writer import Writer
from maml_fast.nn import conv_block
from maml_fast.ops import LoweredModel
from maml_fast.program import Program
from maml_fast.program.operations import Value

__all__ = ["Lowered", "lower"]

aten = torch.ops.aten


class Lowered(NamedTuple):
    """A model that the native kernels can run.

    names: the tensors of the model that it reads, in the kernels' order.
    model: the rest of it.
    n_classes: outputs of a prediction, where they are classes.
    takes_whole: whether the inputs must be whole numbers; below ``entries``, if that is not ``None``.
    """

    names: tuple[str, ...]
    model: LoweredModel
    n_classes: int
    takes_whole: bool
    entries: int | None


@lru_cache(maxsize=32)
def lower(support: Program, query: Program, classes: bool) -> Lowered | str:
    """Write both programs, or return why one has no native form.

    ``classes``: the loss takes outputs [N, classes, ...], and not numbers one by one.
    """
    tensors = {**_named(support), **_named(query)}
    orders = {**_orders(query), **_orders(support)}
    layouts = [number for name, value in tensors.items() for number in _layout(value, orders.get(name))]
    try:
        written = [_write(program, tensors, orders, classes) for program in (support, query)]
    except NotNativeError as why:
        return str(why)
    entries = [each.entries for each, _ in written if each.entries is not None]
    programs = [_in_numbers(each, len(tensors), output) for each, output in written]
    n_classes = support.result.shape[1] if classes and len(support.result.shape) > 1 else 1
    takes_whole = any(each.takes_whole for each, _ in written)
    return Lowered(tuple(tensors), LoweredModel(layouts, *programs), n_classes, takes_whole, min(entries, default=None))


def _named(program: Program) -> dict[str, Value]:
    """The model's tensors that a program reads, by their names."""
    return {value.name: value for line in program.lines for value in line.call.operands if value.name}


def _orders(program: Program) -> dict[str, tuple[int, ...]]:
    """The order of filters and of linear layers' weights: such that the kernels read them as they lie."""
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
    """``csrc/core/inner_loop.h``: PyTorch's [a][b][c] is [c][b][a] to the kernels."""
    if order is None:
        return 1, value.shape.numel(), 1, 1
    out_channels, in_channels, *kernel = value.shape
    return 1, out_channels, in_channels, torch.Size(kernel).numel()


def _write(
    program: Program, tensors: Mapping[str, Value], orders: Mapping[str, Sequence[int]], classes: bool
) -> tuple[Writer, View]:
    """The program, and its output."""
    if len(program.inputs) != 1 or program.updates:
        raise NotNativeError("a model that takes several inputs, or updates buffers, has no native form")
    _check_types(program)
    w = Writer()
    views: dict[Value, View] = {}
    by_name: dict[str, View] = {}
    for name, value in tensors.items():
        w.depends.add(len(w.sizes))
        by_name[name] = w.new(value.shape, orders.get(name))
    w.input = len(w.sizes)
    views[program.input] = w.new(program.input.shape)

    def view_of(argument: Any) -> Any:
        if isinstance(argument, Value):
            return by_name[argument.name] if argument.name else views[argument]
        return [view_of(each) for each in argument] if isinstance(argument, list) else argument

    for line in program.lines:
        call = line.call
        results = write_call(w, call, {name: view_of(value) for name, value in call.arguments.items()})
        pairs = zip(call.results, results, strict=True)
        views.update({value: view for value, view in pairs if value is not None and view is not None})
    rank = len(program.result.shape)
    output = w.lying(views[program.result], channels_last(rank) if classes else identity(rank))
    if output.buffer not in w.depends or output.buffer < w.input:
        raise NotNativeError("a model whose output is none of its results has no native form")
    return w, output


def _check_types(program: Program) -> None:
    """All numbers must be of one type, but whole ones that an embedding is given, and what nobody uses."""
    used = {value for line in program.lines for value in line.call.operands} | {program.result}
    types = {value.dtype for value in used} - {torch.int64}
    if len(types) != 1 or not types <= {torch.float32, torch.float64}:
        raise NotNativeError(f"numbers of {', '.join(sorted(map(str, types)))} have no native form")


def _in_numbers(w: Writer, parameters: int, output: View) -> tuple[list[int], list[float]]:
    """As ``csrc/bindings/program_loop.cpp`` reads it."""
    numbers = [parameters, output.buffer, len(w.sizes), *w.sizes, len(w.operations)]
    for operation in w.operations:
        numbers += operation.in_numbers()
    return numbers, [factor for operation in w.operations for factor in operation.factors]

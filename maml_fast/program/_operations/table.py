"""The parts of a recording, and the table that maps each operation to its batched form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Call", "Step", "Value", "bind", "row", "shifted", "step_of", "with_constants"]

aten = torch.ops.aten


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor of one task; a named one is a parameter or buffer of the model."""

    shape: torch.Size
    dtype: torch.dtype
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """One recorded operation.

    operation: an ATen overload, or a Python function that is recorded as a single operation.
    arguments: values and constants, by argument name.
    results: ``None`` stands for a result that is not a tensor. Results after the first may be the new values of
        arguments that the operation writes to.
    """

    operation: Any
    arguments: dict[str, Any]
    results: tuple[Value | None, ...]

    @property
    def operands(self) -> list[Value]:
        """The values among the arguments, in order; a value used twice appears twice."""
        return list(_values(list(self.arguments.values())))

    @property
    def is_view(self) -> bool:
        """Whether the result is a view of an operand."""
        schema = getattr(self.operation, "_schema", None)
        return schema is not None and any(each.alias_info is not None for each in schema.returns)

    @property
    def result(self) -> Value:
        assert self.results[0] is not None
        return self.results[0]


class Step(NamedTuple):
    """The batched form of a call: ``run(*operands)`` on tensors [T, ...] returns the call's results for all tasks."""

    run: Callable[..., Any]
    operands: Sequence[Value | None]


Row = Callable[[Call, Value], Step | str | None]

_ROWS: dict[Any, Row] = {}


def row(*operations: Any) -> Callable[[Row], Row]:
    """Register the decorated function as the form of these operations (all overloads of ATen ones).

    The function takes a call and the value of the model's input. It returns a step, ``None``, or why there is none.
    """

    def enter(form: Row) -> Row:
        _ROWS.update(dict.fromkeys(operations, form))
        return form

    return enter


def step_of(call: Call, model_input: Value) -> Step | str | None:
    """The batched form of a call; ``None``, or a reason, if it has none.

    model_input: factory functions take the number of tasks and the device from it.
    """
    form = _ROWS.get(getattr(call.operation, "overloadpacket", call.operation))
    return None if form is None else form(call, model_input)


def bind(operation: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, defaults included."""
    schema = getattr(operation, "_schema", None)
    if schema is None:
        bound = inspect.signature(operation).bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)
    defaults = {each.name: each.default_value for each in schema.arguments}
    return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}


def with_constants(call: Call, **others: Any) -> Callable[..., Any]:
    """The operation as a function of its operands, in order. ``others`` replaces some of its constants."""
    keywords = {each.name for each in call.operation._schema.arguments if each.kwarg_only}
    arguments = {**call.arguments, **others}
    positional = [value for name, value in arguments.items() if name not in keywords]
    slots = [place for place, value in enumerate(positional) if isinstance(value, Value)]
    named = {name: value for name, value in arguments.items() if name in keywords}
    operation = call.operation

    def run(*tensors: Tensor) -> Any:
        filled = positional.copy()
        for place, tensor in zip(slots, tensors, strict=True):
            filled[place] = tensor
        return operation(*filled, **named)

    return run


def shifted(dim: int) -> int:
    """The index of one task's dimension ``dim`` in a tensor with a leading dimension of tasks."""
    return dim + 1 if dim >= 0 else dim


def _values(argument: Any) -> Iterator[Value]:
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, list):
        for each in argument:
            yield from _values(each)

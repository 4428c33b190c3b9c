"""What a recording is made of, and the table in which each operation finds its form for all tasks at once."""

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
    """A tensor of one task; with a name it is the model's parameter or buffer."""

    shape: torch.Size
    dtype: torch.dtype
    name: str | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """An operation on values and constants, by the names of its arguments; a result that is no tensor is ``None``.

    Results after the first may be what a written argument holds afterwards.
    """

    operation: Any
    arguments: dict[str, Any]
    results: tuple[Value | None, ...]

    @property
    def operands(self) -> list[Value]:
        """The values among its arguments, one for each place."""
        return list(_values(list(self.arguments.values())))

    @property
    def is_view(self) -> bool:
        """Whether the result is an operand in another shape."""
        schema = getattr(self.operation, "_schema", None)
        return schema is not None and any(each.alias_info is not None for each in schema.returns)

    @property
    def result(self) -> Value:
        """Its first result."""
        assert self.results[0] is not None
        return self.results[0]


class Step(NamedTuple):
    """``run(*operands)`` on tensors [T, ...], where there is one; it returns what the call did."""

    run: Callable[..., Any]
    operands: Sequence[Value | None]


Row = Callable[[Call, Value], Step | str | None]

_ROWS: dict[Any, Row] = {}


def row(*operations: Any) -> Callable[[Row], Row]:
    """Enter the form of operations (all overloads of PyTorch's): it is given a call, and the model's input."""

    def enter(form: Row) -> Row:
        _ROWS.update(dict.fromkeys(operations, form))
        return form

    return enter


def step_of(call: Call, given: Value) -> Step | str | None:
    """What a call does to all tasks; ``None`` if that is not known, or why. ``given`` is the model's input."""
    form = _ROWS.get(getattr(call.operation, "overloadpacket", call.operation))
    return None if form is None else form(call, given)


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
    """The operation itself as a function of its operands, in their order; ``others`` replace constants."""
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
    """A dimension of one task's tensor in that of all tasks."""
    return dim + 1 if dim >= 0 else dim


def _values(argument: Any) -> Iterator[Value]:
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, list):
        for each in argument:
            yield from _values(each)

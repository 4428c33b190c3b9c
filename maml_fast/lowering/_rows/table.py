"""The table that maps a PyTorch operation to the function that lowers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from maml_fast.lowering._views import NotNativeError, View
from maml_fast.lowering._writer import Writer
from maml_fast.program._operations import Call

__all__ = ["Arguments", "row", "write_call"]

# Arguments by their names in the operation's schema, with views in place of tensors.
Arguments = dict[str, Any]
# Returns the view of every result; None for a result that has none.
Row = Callable[[Writer, Call, Arguments], View | Sequence[View | None]]

_ROWS: dict[Any, Row] = {}


def row(*operations: Any) -> Callable[[Row], Row]:
    """Register the decorated function as the lowering of these operations (all overloads of ATen ones)."""

    def enter(function: Row) -> Row:
        _ROWS.update(dict.fromkeys(operations, function))
        return function

    return enter


def write_call(writer: Writer, call: Call, arguments: Arguments) -> Sequence[View | None]:
    """Write a call; return the views of its results.

    Raises:
        NotNativeError: the operation has no native form.
    """
    operation = getattr(call.operation, "overloadpacket", call.operation)
    write = _ROWS.get(operation)
    if write is None:
        raise NotNativeError(f"{getattr(operation, '__name__', operation)} has no native form")
    results = write(writer, call, arguments)
    return [results] if isinstance(results, View) else results

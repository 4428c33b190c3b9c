"""Functions of Python that are recorded as one operation, whatever they call."""

from __future__ import annotations

from functools import partial
from typing import Any

from maml_fast.nn import batch_stat_norm, conv_block, conv_block_of_tasks
from maml_fast.program.operations.table import Call, Step, Value, row
from maml_fast.recurrent import lstm, lstm_of_tasks

__all__ = ["BLOCK_TENSORS", "is_whole"]

BLOCK_TENSORS = ("x", "weight", "bias", "gamma", "beta")


def is_whole(function: Any) -> bool:
    """Whether a function is recorded as one operation. So is batch norm, once the policy is set."""
    return function in (batch_stat_norm, conv_block, lstm)


@row(conv_block)
def _conv_block(call: Call, given: Value) -> Step:
    geometry = {name: value for name, value in call.arguments.items() if name not in BLOCK_TENSORS}
    return Step(partial(conv_block_of_tasks, **geometry), [call.arguments[name] for name in BLOCK_TENSORS])


@row(lstm)
def _lstm(call: Call, given: Value) -> Step:
    return Step(lstm_of_tasks, call.operands)

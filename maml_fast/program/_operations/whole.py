"""Python functions that are recorded as a single operation, whatever they call inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from maml_fast._recurrent import lstm, lstm_layer_of_tasks, lstm_of_tasks
from maml_fast.nn import batch_stat_norm, conv_block, conv_block_of_tasks, tracking_conv_block
from maml_fast.program._operations.table import Call, Step, Value, aten, row

__all__ = ["BLOCK_TENSORS", "is_recorded_as_one"]

BLOCK_TENSORS = ("x", "weight", "bias", "gamma", "beta")
TRACKING_TENSORS = (*BLOCK_TENSORS, "running_mean", "running_var")


def is_recorded_as_one(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is recorded as a single operation. Batch norm is too, after the policy has been applied.

    Instance norm without running statistics is one, because PyTorch computes it as a batch norm of N * C channels.
    """
    if function is F.instance_norm:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        has_statistics = any(given.get(name) is not None for name in ("running_mean", "running_var"))
        return given.get("use_input_stats", True) and not has_statistics
    return function in (batch_stat_norm, conv_block, lstm)


@row(conv_block)
def _conv_block(call: Call, model_input: Value) -> Step:
    return _block(call, conv_block_of_tasks, BLOCK_TENSORS)


@row(tracking_conv_block)
def _tracking_conv_block(call: Call, model_input: Value) -> Step:
    return _block(call, tracking_conv_block, TRACKING_TENSORS)


def _block(call: Call, function: Callable[..., Any], tensors: Sequence[str]) -> Step:
    geometry = {name: value for name, value in call.arguments.items() if name not in tensors}
    return Step(partial(function, **geometry), [call.arguments[name] for name in tensors])


@row(lstm)
def _lstm(call: Call, model_input: Value) -> Step:
    return Step(lstm_of_tasks, call.operands)


_LSTM = 2  # oneDNN's number for the mode


@row(aten.mkldnn_rnn_layer)
def _lstm_of_onednn(call: Call, model_input: Value) -> Step | None:
    """One direction of a ``torch.nn.LSTM`` layer on x [L, N, I]; recorded on CPUs in float32 only."""
    arguments = call.arguments
    if arguments["mode"] != _LSTM or arguments["batch_sizes"]:
        return None
    reverse, has_biases = arguments["reverse"], arguments["has_biases"]
    names = ("input", "weight0", "weight1", *(("weight2", "weight3") if has_biases else ()), "hx_", "cx_")

    def run(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        *biases, hidden, cell = others
        bias = biases[0] + biases[1] if biases else None
        return *lstm_layer_of_tasks(x, weight_ih, weight_hh, bias, hidden, cell, reverse), None

    return Step(run, [arguments[name] for name in names])

"""Recognizes programs that are conv blocks and a linear classifier; their whole inner loop has a native form."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import takewhile
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from maml_fast import ops
from maml_fast.program._operations import Call, Value
from maml_fast.program._program import Line, Program, geometry_of_block

__all__ = ["Block", "ConvNet", "read_conv_net"]

aten = torch.ops.aten


class Block(NamedTuple):
    """One conv block: the names of its parameters, and its geometry as :func:`maml_fast.ops.conv_block` takes it."""

    weight: str
    bias: str | None
    gamma: str | None
    beta: str | None
    stride: int
    padding: int
    pool: int | None
    eps: float
    relu_first: bool


class ConvNet(NamedTuple):
    """A net: images [T, N, C, H, W] -> ``before`` -> ``blocks`` -> all pixels, or their mean -> linear classifier.

    before: lines without parameters, which run before the blocks.
    mean_over_pixels: whether the classifier sees the mean over the pixels of the last block's output.
    names: all parameters in the order of the native kernels: first the blocks', then the classifier's.
    description: the net's geometry as the native kernels take it.
    """

    before: tuple[Line, ...]
    blocks: tuple[Block, ...]
    mean_over_pixels: bool
    names: tuple[str, ...]
    description: ops.NetDescription

    def is_like(self, other: ConvNet) -> bool:
        """Whether both nets use the same parameters in the same way; ``before`` may differ."""
        return self[1:] == other[1:]

    def names_of_blocks(self) -> list[str]:
        """The names of all parameters of the blocks."""
        return [name for block in self.blocks for name in block[:4] if name is not None]


@lru_cache(maxsize=16)
def read_conv_net(program: Program) -> ConvNet | str:
    """Return the net that a program computes, or why it is not such a net."""
    transposed = _results_of(aten.t.default, program)
    copies = _results_of(aten.clone.default, program)
    chain = [line for line in program.lines if line.call.operation not in (aten.t.default, aten.clone.default)]
    current = program.input
    for line in chain:
        if _origin(_input_of(line.call), copies) is not current:
            return "its operations do not form a chain"
        current = line.call.result
    if _origin(program.result, copies) is not current:
        return "its operations do not form a chain"
    before = list(takewhile(_has_no_parameters, chain))
    blocks = list(takewhile(_is_block, chain[len(before) :]))
    head = [line.call for line in chain[len(before) + len(blocks) :]]
    if not blocks:
        return "it does not begin with a conv block"
    averages = bool(head) and _averages(head[0])
    layer = _linear(head[-1], transposed) if head else None
    images = blocks[-1].call.result
    if layer is None or not all(_flattens(call, images) for call in head[averages:-1]):
        return "its conv blocks are not followed by their pixels, or the pixels' mean, and one linear layer"
    weight, bias = layer
    read = [_block(line) for line in blocks]
    named = [block for block in read if block is not None]
    if weight.name is None or (bias is not None and bias.name is None) or len(named) < len(read):
        return "its parameters are computed in forward"
    found = [_obstacle(program.input, line) for line in blocks]
    names = [name for block in named for name in block[:4] if name is not None]
    names += [value.name for value in layer if value is not None and value.name is not None]
    if any(found) or len(set(names)) < len(names):
        return next((why for why in found if why), "parameters are tied")
    numbers: list[int] = []
    for block, line in zip(named, blocks, strict=True):
        out_channels, _, kernel, _ = _filters(line).shape
        numbers += (out_channels, kernel, block.stride, block.padding, block.pool is not None, block.relu_first)
        numbers += (name is not None for name in (block.bias, block.gamma, block.beta))
    description = ops.NetDescription(
        numbers, [block.eps for block in named], [averages, weight.shape[0], bias is not None]
    )
    return ConvNet(tuple(before), tuple(named), averages, tuple(names), description)


def _filters(line: Line) -> Value:
    filters = line.step.operands[1]
    assert filters is not None
    return filters


def _obstacle(x: Value, line: Line) -> str | None:
    """Why the native CPU kernels can't run a block; ``None`` if they can."""
    geometry = geometry_of_block(line.step) or {}
    images = SimpleNamespace(device=torch.device("cpu"), dtype=x.dtype)
    filters = SimpleNamespace(shape=(1, *_filters(line).shape))
    return ops.native_obstacle(images, filters, geometry["stride"], geometry["pool"])  # type: ignore[arg-type]


_RESHAPES = (aten.view.default, aten._unsafe_view.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)


def _results_of(operation: Any, program: Program) -> dict[Value, Value]:
    """The first operand of every call of an operation, by the call's result."""
    calls = (line.call for line in program.lines if line.call.operation is operation)
    return {call.result: call.operands[0] for call in calls}


def _origin(value: Value | None, copies: Mapping[Value, Value]) -> Value | None:
    while value is not None and value in copies:
        value = copies[value]
    return value


def _input_of(call: Call) -> Value | None:
    """The operand that carries the activations."""
    return call.arguments["mat1"] if call.operation is aten.addmm.default else next(iter(call.operands), None)


def _has_no_parameters(line: Line) -> bool:
    operands = line.step.operands
    return not _is_block(line) and len(operands) == 1 and operands[0] is not None and operands[0].name is None


def _is_block(line: Line) -> bool:
    return geometry_of_block(line.step) is not None


def _flattens(call: Call, images: Value) -> bool:
    """Whether a call reshapes images without touching dimension N, as flattening to [N, features] does."""
    return call.operation in _RESHAPES and call.result.shape[:1] == images.shape[:1]


def _averages(call: Call) -> bool:
    """Whether a call is ``x.mean(dim=(2, 3))``, with or without ``keepdim``."""
    if call.operation is not aten.mean.dim or call.arguments["dtype"] is not None:
        return False
    return sorted(dim % 4 for dim in call.arguments["dim"]) == [2, 3] and len(call.operands[0].shape) == 4


def _linear(call: Call, transposed: Mapping[Value, Value]) -> tuple[Value, Value | None] | None:
    """Weight and bias of a call that is ``F.linear`` on vectors; else ``None``."""
    arguments = call.arguments
    if call.operation is aten.mm.default:
        weight = transposed.get(arguments["mat2"])
        return None if weight is None else (weight, None)
    if call.operation is not aten.addmm.default or (arguments["beta"], arguments["alpha"]) != (1, 1):
        return None
    weight, bias = transposed.get(arguments["mat2"]), arguments["self"]
    return None if weight is None or len(bias.shape) != 1 or bias.shape[0] != weight.shape[0] else (weight, bias)


def _block(line: Line) -> Block | None:
    _, *parameters = line.step.operands
    if any(value is not None and value.name is None for value in parameters):
        return None
    weight, *others = (None if value is None else value.name for value in parameters)
    bias, gamma, beta = others
    assert weight is not None
    return Block(weight, bias, gamma, beta, **(geometry_of_block(line.step) or {}))

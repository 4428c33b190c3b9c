"""Finds the head of a recorded net: the parameters of the last layer before its output."""

from __future__ import annotations

from functools import lru_cache

import torch

from maml_fast.nn import conv_block, tracking_conv_block
from maml_fast.program._operations import Value
from maml_fast.program._program import Line, Program

__all__ = ["names_of_head"]

aten = torch.ops.aten
_PRODUCTS = {  # operations that mix features; those that scale, shift or normalize belong to the product before them
    *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.mv, aten.dot, aten.convolution, aten.embedding),
    *(aten.mkldnn_rnn_layer, conv_block, tracking_conv_block),
}


@lru_cache(maxsize=16)
def names_of_head(program: Program) -> frozenset[str]:
    """The names of the model's tensors in the last product with parameters, and in everything after it.

    If the output is a sum of several branches, each branch has its own last product.
    """
    makers = {result: line for line in program.lines for result in line.call.results if result is not None}
    reached, names = _origins(program)
    found: set[str] = set()
    todo, seen = [program.result], set[Value]()
    while todo:
        value = todo.pop()
        if value in seen or value not in makers:
            continue
        seen.add(value)
        line = makers[value]
        operands = [each for each in line.step.operands if each is not None]
        here = {name for each in operands if each not in reached for name in names.get(each, ())}
        found |= here
        if not (here and _is_product(line)):
            todo += [each for each in operands if each in reached]
    return frozenset(found)


def _origins(program: Program) -> tuple[set[Value], dict[Value, set[str]]]:
    """The values that depend on the inputs; for every other value, the names of the tensors it is computed from."""
    reached, names = set(program.inputs), dict[Value, set[str]]()
    for line in program.lines:
        operands = [each for each in line.step.operands if each is not None]
        for each in operands:
            if each.name is not None:
                names[each] = {each.name}
        results = [each for each in line.call.results if each is not None]
        if any(each in reached for each in operands):
            reached.update(results)
        else:
            behind = {name for each in operands for name in names.get(each, ())}
            names.update((each, behind) for each in results)
    return reached, names


def _is_product(line: Line) -> bool:
    operation = line.call.operation
    return getattr(operation, "overloadpacket", operation) in _PRODUCTS

"""Replaces convolution, batch norm, ReLU and max-pool, in this or an equivalent order, by one fused block."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from maml_fast.nn import batch_stat_norm, conv_block, tracking_conv_block
from maml_fast.program._operations import Call, Value

__all__ = ["block_obstacles", "describe_block", "with_blocks"]

aten = torch.ops.aten


def with_blocks(calls: list[Call], results: Collection[Value]) -> list[Call]:
    """Replace every run of conv, batch norm, ReLU and pool by one call of :func:`maml_fast.nn.conv_block`.

    A run whose batch norm updates running statistics becomes a call of :func:`maml_fast.nn.tracking_conv_block`.
    """
    users = _users(calls, results)
    replaced: dict[Call, Call | None] = {}
    for call in calls:
        if call.operation is aten.convolution.default and isinstance(run := _read_run(call, users), _Run):
            replaced.update(dict.fromkeys(run.calls))
            replaced[run.norm] = run.block  # here all operands exist, and no result has been read yet
    kept = (replaced.get(call, call) for call in calls)
    return [call for call in kept if call is not None]


def block_obstacles(calls: list[Call], results: Collection[Value]) -> list[str]:
    """One line per convolution outside of a block, ``"where: why"``."""
    users = _users(calls, results)
    convolutions = (call for call in calls if call.operation is aten.convolution.default)
    found = ((call.arguments["weight"].name, _read_run(call, users)) for call in convolutions)
    return [f"{name or 'a convolution'}: {run}" for name, run in found if isinstance(run, str)]


def describe_block(block: Call) -> str:
    """One line for a block, ``"where: what"``: the name of its filters, and its operations."""
    arguments = block.arguments
    out_channels, in_channels, side, _ = arguments["weight"].shape
    conv = f"conv {in_channels}->{out_channels} k{side} s{arguments['stride']} p{arguments['padding']}"
    order = ["ReLU", "BN"] if arguments["relu_first"] else ["BN", "ReLU"]
    what = " + ".join([conv, *order, *(["pool2"] if arguments["pool"] else [])])
    return f"{arguments['weight'].name or 'computed filters'}: {what}"


class _Run(NamedTuple):
    calls: list[Call]
    norm: Call  # one of the calls
    block: Call  # the call that replaces them


Users = dict[Value, list[Call | None]]  # None stands for the program's own result


def _users(calls: list[Call], results: Collection[Value]) -> Users:
    users: Users = {}
    for call in calls:
        for value in call.operands:
            users.setdefault(value, []).append(call)
    for result in results:
        users.setdefault(result, []).append(None)
    return users


def _read_run(conv: Call, users: Users) -> _Run | str:
    """The run that begins with a convolution, or why it can't be fused."""
    if (why := _obstacle_in(conv)) is not None:
        return why
    chain = [conv, *_chain(conv, users)]
    kinds = [_kind(call) for call in chain]
    for pattern in _PATTERNS:
        if kinds[: len(pattern)] == list(pattern):
            run = chain[: len(pattern)]
            norm = run[pattern.index("norm")]
            return _Run(run, norm, _block(run, norm, pattern))
    if kinds[1:2] == ["pool"] or kinds[1:3] == ["relu", "pool"]:
        return "max-pool comes before batch norm"
    if kinds[1:2] != ["norm"]:
        used = len(users.get(conv.result, ()))
        return "its output is used more than once" if used > 1 else "no batch norm on the batch's statistics follows"
    return "no ReLU follows its batch norm"


_PATTERNS = (  # longest first; ReLU and max-pool commute
    ("conv", "norm", "relu", "pool"),
    ("conv", "norm", "pool", "relu"),
    ("conv", "relu", "norm", "pool"),
    ("conv", "norm", "relu"),
    ("conv", "relu", "norm"),
)


def _chain(call: Call, users: Users) -> Iterator[Call]:
    """The calls after this one, as long as each is the only user of the previous one and reads it as first operand."""
    while True:
        following = users.get(call.result, [])
        others = [value for value in call.results[1:] if value is not None and users.get(value)]
        if _kind(call) == "norm":
            others = []  # the other results are running statistics
        if len(following) != 1 or following[0] is None or others or following[0].operands[0] is not call.result:
            return
        call = following[0]
        yield call


def _kind(call: Call) -> str:
    operation, arguments = call.operation, call.arguments
    if operation is aten.convolution.default:
        return "conv"
    if operation is aten.relu.default:
        return "relu"
    if operation is batch_stat_norm or (operation is F.batch_norm and arguments["training"]):
        return "norm" if len(call.results) in (1, 3) else "something else"
    if operation is aten.max_pool2d_with_indices.default:
        sizes = [_square(arguments[name]) for name in ("kernel_size", "stride", "padding", "dilation")]
        halves = sizes in ([2, 2, 0, 1], [2, None, 0, 1]) and arguments["stride"] in ([], [2], [2, 2])
        return "pool" if halves and not arguments["ceil_mode"] else "another pool"
    return "something else"


def _obstacle_in(conv: Call) -> str | None:
    """Why a convolution can't be part of a block; ``None`` if it can."""
    arguments = conv.arguments
    shape = arguments["weight"].shape
    if len(shape) != 4 or len(arguments["input"].shape) != 4:
        return f"a convolution of {len(shape) - 2} dimensions, or of a single image"
    if arguments["transposed"]:
        return "a transposed convolution"
    if arguments["groups"] != 1:
        return f"convolution in {arguments['groups']} groups"
    if _square(arguments["dilation"]) != 1:
        return f"dilated convolution (dilation {arguments['dilation']})"
    if _square(shape[2:]) not in (1, 3, 5):
        return f"convolution with kernel {'x'.join(map(str, shape[2:]))}; 1x1, 3x3 and 5x5 can be fused"
    if _square(arguments["stride"]) not in (1, 2, 3):
        return f"convolution with stride {arguments['stride']}; 1, 2 and 3 can be fused"
    if _square(arguments["padding"]) is None:
        return f"convolution with padding {arguments['padding']}; only equal paddings can be fused"
    return None


def _block(run: list[Call], norm: Call, kinds: Sequence[str]) -> Call:
    conv, norm_arguments = run[0].arguments, norm.arguments
    arguments = {
        "x": conv["input"],
        "weight": conv["weight"],
        "bias": conv["bias"],
        "gamma": norm_arguments["weight"],
        "beta": norm_arguments["bias"],
        "stride": _square(conv["stride"]),
        "padding": _square(conv["padding"]),
        "pool": 2 if "pool" in kinds else None,
        "eps": norm_arguments["eps"],
        "relu_first": kinds[1] == "relu",
    }
    kept = norm.results[1:]
    if not kept:
        return Call(conv_block, arguments, (run[-1].result,))
    arguments.update({name: norm_arguments[name] for name in ("running_mean", "running_var", "momentum")})
    return Call(tracking_conv_block, arguments, (run[-1].result, *kept))


def _square(values: Collection[Any]) -> int | None:
    """n for [n] or [n, n]; ``None`` if the values differ."""
    first, *others = values or [None]
    return first if all(other == first for other in others) else None

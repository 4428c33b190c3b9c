"""Runs a ``forward`` recorded on one task for all tasks at once: one call per operation, on tensors [T, ...]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from maml_fast import ops
from maml_fast.nn import conv_block_of_tasks, tracking_conv_block
from maml_fast.program._conv_blocks import block_obstacles, describe_block, with_blocks
from maml_fast.program._operations import Call, Step, Value, step_of
from maml_fast.program._recording import Recording
from maml_fast.program._tape import RecordingError

__all__ = ["Line", "Program", "RunBlock", "geometry_of_block"]

# run_block(geometry, x, weight, bias, gamma, beta) replaces nn.conv_block_of_tasks.
RunBlock: TypeAlias = Callable[..., Tensor]


class Line(NamedTuple):
    """One operation of a program, and the values that can be freed after it."""

    call: Call
    step: Step
    done: list[Value]  # no later line needs these


class Program:
    """A recorded model: ``program(fast, shared, x)`` maps x [T, N, ...], or several inputs, to [T, N, ...].

    Every call looks parameters and buffers up by name: first in ``fast`` [T, ...], then in ``shared`` [...].

    Attributes:
        inputs, result: the values of one task.
        updates: the value that each updated buffer holds after the call, by the buffer's name.
        unversioned: names of the updated buffers whose version counter PyTorch does not increase.
        names: names of the model's tensors that the program reads.
        fused: one line per conv block, ``"where: what"``.
        convolutions_left: one line per convolution outside of a block, ``"where: why"``.

    Raises:
        RecordingError: an operation has no batched form.
    """

    def __init__(self, recording: Recording) -> None:
        self.inputs, self.result = recording.inputs, recording.result
        self.updates, self.unversioned = recording.updates, recording.unversioned
        self._results = {self.result, *self.updates.values()}
        calls = with_blocks(recording.calls, self._results)
        self.lines = [Line(call, self._step(call), []) for call in calls]
        self.fused = tuple(describe_block(line.call) for line in self.blocks())
        self.convolutions_left = tuple(block_obstacles(calls, self._results))
        self.names = {value.name for line in self.lines for value in line.step.operands if value and value.name}
        self._note_last_uses()

    @property
    def input(self) -> Value:
        return self.inputs[0]

    def __call__(
        self,
        fast: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        *inputs: Tensor,
        run_block: RunBlock | None = None,
        left: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Run the program for all tasks.

        Args:
            fast: tensors of each task [T, ...], by name.
            shared: tensors that all tasks share [...], by name.
            inputs: one tensor [T, N, ...] per input of the model.
            run_block: called for each conv block without running statistics, in order, in place of the default.
            left: receives the new values [T, ...] of updated buffers, by name. The buffers themselves are not written.
        """
        n_tasks = len(inputs[0])
        values: dict[Value | None, Any] = {None: None, **dict(zip(self.inputs, inputs, strict=True))}

        def operand(value: Value | None) -> Any:
            if value is None or value.name is None:
                return values[value]
            own = fast.get(value.name)
            return ops.over_tasks(shared[value.name], n_tasks) if own is None else own

        for call, step, done in self.lines:
            geometry = None if run_block is None else geometry_of_block(step)
            run = step.run if run_block is None or geometry is None else partial(run_block, geometry)
            output = run(*map(operand, step.operands))
            if len(call.results) == 1 and isinstance(output, Tensor):
                values[call.results[0]] = output
            else:
                values.update(zip(call.results, output, strict=True))
            for value in done:
                del values[value]
        if left is not None:
            left.update({name: operand(value) for name, value in self.updates.items()})
        result = operand(self.result)
        assert isinstance(result, Tensor)
        return result

    @cached_property
    def bytes_computed(self) -> int:
        """Bytes of all results for one task. Views count as zero; a conv block also counts its convolution's output."""
        total = 0
        for line in self.lines:
            results = () if line.call.is_view else line.call.results
            size = sum(value.shape.numel() * value.dtype.itemsize for value in results if value is not None)
            pooled = (geometry_of_block(line.step) or {}).get("pool")
            total += size * (5 if pooled else 2) if line in self.blocks() else size
        return total

    @property
    def has_onednn_lstm(self) -> bool:
        """Whether the program contains a ``torch.nn.LSTM`` layer that oneDNN runs when called for a single task."""
        return any(line.call.operation is torch.ops.aten.mkldnn_rnn_layer.default for line in self.lines)

    def blocks(self) -> list[Line]:
        """The lines that are conv blocks, in program order."""
        return [line for line in self.lines if _is_partial_of(line.step, conv_block_of_tasks, tracking_conv_block)]

    def filters(self) -> list[str]:
        """The names of the conv blocks' filters; filters computed in ``forward`` are left out."""
        weights = (line.step.operands[1] for line in self.blocks())
        return [weight.name for weight in weights if weight is not None and weight.name is not None]

    def _step(self, call: Call) -> Step:
        step = step_of(call, self.input)
        if not isinstance(step, Step):
            raise RecordingError(step or f"{_described(call)} has no form for all tasks at once")
        return step

    def _note_last_uses(self) -> None:
        last: dict[Value, Line] = {}
        for line in self.lines:
            values = (*line.call.results, *line.step.operands)
            last.update((value, line) for value in values if value is not None and value.name is None)
        for value, line in last.items():
            if value not in self._results:
                line.done.append(value)


def geometry_of_block(step: Step) -> dict[str, Any] | None:
    """The keyword arguments of a conv block without running statistics; ``None`` for any other step."""
    return step.run.keywords if _is_partial_of(step, conv_block_of_tasks) else None  # type: ignore[attr-defined]


def _is_partial_of(step: Step, *functions: Callable[..., Any]) -> bool:
    return isinstance(step.run, partial) and step.run.func in functions


def _described(call: Call) -> str:
    packet = getattr(call.operation, "overloadpacket", call.operation)
    names = [value.name for value in call.operands if value.name]
    return f"{packet.__name__}{f' of {names[0]}' if names else ''}"

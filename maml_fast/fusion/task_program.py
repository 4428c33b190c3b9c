"""A recorded ``forward`` of one task, run for all tasks at once: one call of each operation, on [T, ...]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.fx import Graph, Node

from maml_fast import ops
from maml_fast.fusion.task_steps import Step, Weight, geometry_of_block, gives_size, read_step
from maml_fast.fusion.trace import has_hooks

__all__ = ["Line", "RunBlock", "TaskProgram", "read_program"]

# run_block(geometry, x, weight, bias, gamma, beta) in the place of nn.conv_block_of_tasks.
RunBlock: TypeAlias = Callable[..., Tensor]


def read_program(graph: Graph, root: nn.Module) -> TaskProgram | str:
    """Return the program of a recording, or why there is none; ``root`` is the module that was recorded."""
    if has_hooks(root):
        return "forward has hooks"
    try:
        return TaskProgram(graph, root)
    except _UnknownStepError as error:
        return str(error)


class _UnknownStepError(Exception):
    """The recording holds what can't be done for all tasks at once, or not yet; the message names it."""


class Line(NamedTuple):
    """One operation of a program, and what can be let go of after it."""

    result: Node
    step: Step
    done: list[Node]  # values that no later line needs


class TaskProgram:
    """``program(fast, shared, x) -> [T, N, ...]`` of x [T, N, ...].

    Parameters and buffers are looked up by name at every call: in ``fast`` [T, ...], else in ``shared`` [...].
    """

    def __init__(self, graph: Graph, root: nn.Module) -> None:
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        result = next(node for node in graph.nodes if node.op == "output").args[0]
        if len(inputs) != 1 or not isinstance(result, Node):
            raise _UnknownStepError("a forward of one tensor to one tensor is needed")
        self.input, self._result = inputs[0], result
        self.lines = _lines(graph, root, inputs[0], result)

    def __call__(
        self,
        fast: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        x: Tensor,
        run_block: RunBlock | None = None,
    ) -> Tensor:
        """Run it; its conv blocks, in their order, by ``run_block`` if that is given."""
        values: dict[Any, Any] = {self.input: x}

        def value(operand: Any) -> Any:
            if type(operand) is Weight:
                own = fast.get(operand.name)
                return ops.over_tasks(shared[operand.name], len(x)) if own is None else own
            return values[operand] if type(operand) is Node else operand

        for result, step, done in self.lines:
            geometry = None if run_block is None else geometry_of_block(step)
            run = step.run if run_block is None or geometry is None else partial(run_block, geometry)
            values[result] = run(*map(value, step.operands))
            for node in done:
                del values[node]
        return values[self._result]

    def filters(self) -> list[str]:
        """The names of the conv blocks' filters, in their order."""
        return [line.step.operands[1].name for line in self.lines if geometry_of_block(line.step) is not None]


def _lines(graph: Graph, root: nn.Module, start: Node, result: Node) -> list[Line]:
    """Read every node, in the order of the recording."""
    first_names: dict[Tensor, str] = {}  # tied tensors have several
    for name, tensor in (*root.named_parameters(), *root.named_buffers()):
        first_names.setdefault(tensor, name)
    tensors, sizes = {start}, set[Node]()
    lines: list[Line] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        step = read_step(node, root, sizes)
        if step is None or not _is_closed(node, step, {*tensors, *sizes}):
            raise _UnknownStepError(f"{_described(node, root)} has no form for all tasks at once")
        operands = tuple(_named(operand, root, first_names) for operand in step.operands)
        lines.append(Line(node, Step(step.run, operands), []))
        (sizes if gives_size(node) else tensors).add(node)
    if result not in tensors:
        raise _UnknownStepError("what it returns is not computed from its input")
    _release(lines, start, result)
    return lines


def _is_closed(node: Node, step: Step, values: set[Node]) -> bool:
    """Return whether a step starts from a value, and all that its node depends on is among its operands."""
    nodes = {operand for operand in step.operands if isinstance(operand, Node)}  # others may not even be hashable
    return step.operands[0] in nodes & values and set(node.all_input_nodes) <= nodes


def _named(operand: Any, root: nn.Module, first_names: Mapping[Tensor, str]) -> Any:
    """Turn a parameter or buffer, given by any of its places, into a :class:`Weight` by its first name."""
    if isinstance(operand, Node) and operand.op == "get_attr":
        operand = Weight(str(operand.target))
    if not isinstance(operand, Weight):
        return operand
    path, _, attribute = operand.name.rpartition(".")
    tensor = getattr(root.get_submodule(path), attribute)
    if not isinstance(tensor, Tensor) or tensor not in first_names:
        raise _UnknownStepError(f"{operand.name} is neither a parameter nor a buffer")
    return Weight(first_names[tensor])


def _release(lines: list[Line], start: Node, result: Node) -> None:
    """Note where each value is needed for the last time."""
    last = {start: lines[0]} if lines else {}
    for line in lines:
        last.update((operand, line) for operand in (line.result, *line.step.operands) if isinstance(operand, Node))
    for node, line in last.items():
        if node is not result:
            line.done.append(node)


def _described(node: Node, root: nn.Module) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(root.get_submodule(str(node.target))).__name__})"
    return f".{node.target}()" if node.op == "call_method" else f"{getattr(node.target, '__name__', node.target)}()"

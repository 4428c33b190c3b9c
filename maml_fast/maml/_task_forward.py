"""The task-batched forward pass of any module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maml_fast import ops
from maml_fast.maml._support_norms import SupportNorms
from maml_fast.program import AsWritten, BatchNormPolicy, FusionReport, NoForm, Program, Programs, RunBlock, Watch

__all__ = ["TaskForward", "asked_engine"]

asked_engine: ContextVar[str | None] = ContextVar("maml_fast_engine", default=None)  # by engines.use_engine

WORTH_IT = {True: 100_000, False: 250_000}  # parameters of a model without conv blocks: see TaskForward._obstacle
MANY = 3  # tasks, of such a model too: see TaskForward.alone


class LastCall(NamedTuple):
    """How a module ran.

    by: its program, or why it ran as written.
    recorded: its program, if there is one, whether or not it ran.
    is_closed: a recording has shown that it used no tensors but the model's and its input.
    """

    by: Program | str
    recorded: Program | None = None
    is_closed: bool = False


class TaskForward:
    """Calls a module for ``T`` tasks: ``forward(fast, shared, x) -> logits``.

    A module whose recording has a form for all tasks at once runs by that, operation by operation, where it pays. Any
    other module runs as it is written, task by task. :meth:`describe` tells which, and why. Ordinary autograd
    differentiates either.

    Attributes:
        last: how the last call ran; ``None`` before the first.
        watch: what the model is now, and reads; ``None`` if that can't be told, or nothing is recorded.
    """

    def __init__(self, model: nn.Module, policy: BatchNormPolicy, fused: bool) -> None:
        self.model = model
        self.policy = policy
        self.last: LastCall | None = None
        self._as_written: tuple[Watch, AsWritten] | None = None
        self._programs = Programs(model, policy) if fused else None
        self.watch: Callable[[], Watch | None] = _no_watch if self._programs is None else self._programs.watch
        self._size = sum(parameter.numel() for _, parameter in model.named_parameters())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "last": None, "_as_written": None}

    def __call__(
        self, fast: Mapping[str, Tensor], shared: Mapping[str, Tensor], x: Tensor, run_block: RunBlock | None = None
    ) -> Tensor:
        """Logits [T, N, ...] of x [T, N, ...].

        ``fast`` holds each task's own parameters [T, ...]; ``shared`` the parameters that all tasks have in common.
        With ``run_block`` the module must run for all tasks at once.
        """
        programs = self.programs(x)
        if not isinstance(programs, str) and (run_block is not None or self.alone(programs, len(x), 1) is None):
            shared = self.with_buffers(self.in_kernel_order(shared, programs), programs)
            return programs[0](fast, shared, x, run_block=run_block)
        as_written = self.as_written()
        tasks = ({**shared, **{name: weight[t] for name, weight in fast.items()}} for t in range(len(x)))
        return torch.stack([as_written.begin_task()(*task) for task in zip(tasks, x, strict=True)])

    def by_support(
        self, fast: Mapping[str, Tensor], shared: Mapping[str, Tensor], x_spt: Tensor, x_qry: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same of support images [T, N, ...] and queries [T, M, ...], both normalized by the former's statistics.

        Task by task, by the module as it is written.
        """
        as_written = self.as_written()
        support, queries = [], []
        for t, (x, others) in enumerate(zip(x_spt, x_qry, strict=True)):
            parameters = {**shared, **{name: weight[t] for name, weight in fast.items()}}
            run, norms = as_written.begin_task(), SupportNorms()
            with norms:
                support.append(run(parameters, x))
            with norms.given():
                queries.append(run(parameters, others))
        return torch.stack(support), torch.stack(queries)

    def programs(self, *inputs: Tensor) -> Sequence[Program] | str:
        """What runs each of these x [T, N, ...] for all tasks at once, or why the module runs as it is written.

        Raises:
            RuntimeError: ``use_engine`` asks for all tasks at once, and there is no program.
        """
        recorded = self.recorded(*inputs)
        return recorded if isinstance(recorded, str) else self.together(recorded, *inputs)

    def recorded(self, *inputs: Tensor) -> Sequence[Program] | str:
        """The programs for each of these x [T, N, ...], or why there are none; it raises as :meth:`programs`."""
        asked = asked_engine.get()
        if self._programs is None or asked == "loop":
            why = "fusion is switched off" if self._programs is None else "use_engine('loop')"
            self.last = LastCall(why)
            return why
        programs = []
        for program in self._programs.of_each(inputs):
            if isinstance(program, str):
                if asked is not None:
                    raise RuntimeError(f"the {asked} engine can't run this: {program}")
                self.last = LastCall(program, None, isinstance(program, NoForm))
                return program
            programs.append(program)
        self.note(programs[-1])
        return programs

    def note(self, program: Program) -> None:
        """Take down that a program ran, natively or for all tasks at once."""
        self.last = LastCall(program, program, is_closed=True)

    def together(self, programs: Sequence[Program], *inputs: Tensor) -> Sequence[Program] | str:
        """The same programs of these x, or why one task after another is faster."""
        for program, x in zip(programs, inputs, strict=True):
            obstacle = None if asked_engine.get() == "batched" else self._obstacle(program, x)
            if obstacle is not None:
                self.last = LastCall(obstacle, program, is_closed=True)
                return obstacle
        return programs

    def alone(self, programs: Sequence[Program], together: int, order: int) -> str | None:
        """Why one task after another is faster than so few at once; ``None`` if it is not.

        Nets of conv blocks gain always, and others on a GPU. On a CPU the rest was measured, as times as fast as a
        plain loop, of 1, 2, 3, 4 and 8 tasks together at order 2: a transformer 0.7, 1.0, 1.1, 1.3, 1.6; a GRU 0.7,
        1.2, 1.4, 1.9, 2.7; an autoencoder 0.8, 1.3, 1.5, 1.8, 2.2; a net for sines 0.9, 1.3, 1.8, 2.2, 3.2. An LSTM
        of 3, 4, 8 and 16 tasks at order 2: 1.7, 2.2, 2.7, 3.3; at order 1: 0.6, 0.7, 0.9, 1.1.
        """
        if asked_engine.get() == "batched" or any(program.blocks() for program in programs):
            return None
        if next(self.model.parameters()).device.type != "cpu":
            return None
        if together < MANY:
            few = f"{together} task{'s' if together > 1 else ''} at a time"
            why = f"{few}: fewer than {MANY} gain nothing together on a CPU"
        elif order == 1 and any(program.has_onednn_lstm for program in programs):
            why = "at first order oneDNN's LSTM is faster alone"
        else:
            return None
        assert self.last is not None
        self.last = self.last._replace(by=why)
        return why

    def as_written(self) -> AsWritten:
        """The module as it is now, to be run task by task."""
        watch = self.watch()
        if watch is None:
            return AsWritten(self.model, self.policy, None)
        if self._as_written is None or self._as_written[0] is not watch:
            self._as_written = watch, AsWritten(self.model, self.policy, watch)
        return self._as_written[1]

    def with_buffers(self, parameters: Mapping[str, Tensor], programs: Sequence[Program]) -> dict[str, Tensor]:
        """What all tasks have in common, for programs: these parameters, and copies of the buffers that are read."""
        names = _names(programs, lambda program: program.names)
        buffers = self.model.named_buffers() if names.difference(parameters) else ()
        return {**parameters, **{name: buffer.clone() for name, buffer in buffers if name in names}}

    def in_kernel_order(self, parameters: Mapping[str, Tensor], programs: Sequence[Program]) -> dict[str, Tensor]:
        """The parameters laid out in memory as what runs here reads them, to be done once before many calls."""
        filters = _names(programs, Program.filters)
        return {
            name: ops.in_kernel_order(parameter) if name in filters else parameter
            for name, parameter in parameters.items()
        }

    def report(self) -> FusionReport | None:
        """What ran on the fused op in the last call; ``None`` before the first, and where fusion is switched off."""
        if self.last is None or self._programs is None:
            return None
        by, recorded, _ = self.last
        if recorded is None:
            return FusionReport(self.policy, left=(f"forward: {by}",))
        return FusionReport(self.policy, () if isinstance(by, str) else recorded.fused, recorded.convolutions_left)

    def describe(self, is_native: bool = False) -> str:
        """What ran the module last, and why; natively it was neither all tasks at once nor as it is written."""
        if self.last is None:
            return "recorded at the first call"
        by = self.last.by
        if is_native and isinstance(by, str):
            return "as native operations"
        return f"as written, task by task ({by})" if isinstance(by, str) else "all tasks at once"

    def _obstacle(self, program: Program, x: Tensor) -> str | None:
        """Why one task after another is faster than all at once; ``None`` where it is not.

        On a GPU all at once is faster, and where there are conv blocks, whose kernels take all tasks. Else one call for
        all tasks saves Python's overhead, and threads share its tasks, but its matrix products are slower for large
        weights than one task's. Multilayer perceptrons of 784 inputs and two hidden layers, as times as fast as one
        task after another, on one thread and two: of 200,000 parameters 0.9 to 1.3 and 1.3 to 1.7, of 650,000 0.6 to
        0.9 and 0.8 to 1.1, of 1,800,000 0.3 to 0.6 and 0.4 to 0.7. PyTorch's convolution of groups has no fast double
        backward on a CPU.
        """
        if x.device.type != "cpu":
            return None
        if program.convolutions_left:
            return f"{program.convolutions_left[0]}: PyTorch's own convolution is faster alone on a CPU"
        most = WORTH_IT[torch.get_num_threads() == 1]
        if self._size <= most or program.blocks():
            return None
        return f"{self._size:,} parameters without a conv block: more than {most:,} gain nothing together on a CPU"


def _no_watch() -> None:
    return None


def _names(programs: Sequence[Program], of: Callable[[Program], Collection[str]]) -> set[str]:
    return {name for program in programs for name in of(program)}

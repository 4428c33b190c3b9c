"""The forward pass of any module for all tasks of a meta-batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maml_fast import ops
from maml_fast.inner_loop._support_norms import SupportNorms
from maml_fast.program import AsWritten, BatchNormPolicy, FusionReport, NoForm, Program, Programs, RunBlock, Watch

__all__ = ["TaskForward", "requested_engine"]

requested_engine: ContextVar[str | None] = ContextVar("maml_fast_engine", default=None)  # set by use_engine

# Limits for running a model without conv blocks on a CPU with all tasks at once.
MAX_BATCHED_PARAMETERS = {True: 100_000, False: 250_000}  # by "one thread only"; see TaskForward._obstacle
MIN_BATCHED_TASKS = 3  # see TaskForward.reason_for_loop


class LastCall(NamedTuple):
    """How a module ran in the last call.

    Attributes:
        by: the program that ran, or the reason why the module ran as it is written.
        recorded: the module's program if there is one, whether or not it ran.
        is_closed: whether a recording has shown that the module uses no tensors except its own and its input.
    """

    by: Program | str
    recorded: Program | None = None
    is_closed: bool = False


class TaskForward:
    """Calls a module for ``T`` tasks: ``forward(fast, shared, x) -> logits``.

    A module whose recording has a batched form runs all tasks at once, operation by operation, if that is faster. Any
    other module runs as it is written, task by task. :meth:`describe` says which, and why. Autograd differentiates
    through both.

    Attributes:
        last: how the last call ran; ``None`` before the first call.
        watch: returns the :class:`Watch` of the model's current state; ``None`` if the state can't be watched, or if
            nothing is recorded.
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
        """Return logits [T, N, ...] of ``x`` [T, N, ...].

        Args:
            fast: each task's own parameters, [T, ...] by name.
            shared: the parameters that all tasks share, by name.
            x: the inputs.
            run_block: runs the conv blocks. If given, the module must have programs that run all tasks at once.
        """
        programs = self.programs(x)
        if not isinstance(programs, str) and (
            run_block is not None or self.reason_for_loop(programs, len(x), 1) is None
        ):
            shared = self.with_buffers(self.in_kernel_order(shared, programs), programs)
            return programs[0](fast, shared, x, run_block=run_block)
        as_written = self.as_written()
        tasks = ({**shared, **{name: weight[t] for name, weight in fast.items()}} for t in range(len(x)))
        return torch.stack([as_written.begin_task()(*task) for task in zip(tasks, x, strict=True)])

    def by_support(
        self, fast: Mapping[str, Tensor], shared: Mapping[str, Tensor], x_spt: Tensor, x_qry: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of support images [T, N, ...] and queries [T, M, ...], normalized by support statistics.

        The module runs as it is written, task by task.
        """
        as_written = self.as_written()
        support, queries = [], []
        for t, (support_images, query_images) in enumerate(zip(x_spt, x_qry, strict=True)):
            parameters = {**shared, **{name: weight[t] for name, weight in fast.items()}}
            run, norms = as_written.begin_task(), SupportNorms()
            with norms:
                support.append(run(parameters, support_images))
            with norms.for_queries():
                queries.append(run(parameters, query_images))
        return torch.stack(support), torch.stack(queries)

    def programs(self, *inputs: Tensor) -> Sequence[Program] | str:
        """Return programs that run all tasks at once for these inputs [T, N, ...], or why the module runs as written.

        Raises:
            RuntimeError: ``use_engine`` requests an engine other than "loop", and there is no program.
        """
        recorded = self.recorded(*inputs)
        return recorded if isinstance(recorded, str) else self.batched_programs(recorded, *inputs)

    def recorded(self, *inputs: Tensor) -> Sequence[Program] | str:
        """Return the program for each of these inputs [T, N, ...], or why there are none; raises like ``programs``."""
        requested = requested_engine.get()
        if self._programs is None or requested == "loop":
            why = "fusion is switched off" if self._programs is None else "use_engine('loop')"
            self.last = LastCall(why)
            return why
        programs = []
        for program in self._programs.of_each(inputs):
            if isinstance(program, str):
                if requested is not None:
                    raise RuntimeError(f"the {requested} engine can't run this: {program}")
                self.last = LastCall(program, None, isinstance(program, NoForm))
                return program
            programs.append(program)
        self.record_run(programs[-1])
        return programs

    def record_run(self, program: Program) -> None:
        """Record that a program ran, natively or for all tasks at once."""
        self.last = LastCall(program, program, is_closed=True)

    def batched_programs(self, programs: Sequence[Program], *inputs: Tensor) -> Sequence[Program] | str:
        """Return the programs unchanged, or the reason why these inputs run faster one task after another."""
        for program, x in zip(programs, inputs, strict=True):
            obstacle = None if requested_engine.get() == "batched" else self._obstacle(program, x)
            if obstacle is not None:
                self.last = LastCall(obstacle, program, is_closed=True)
                return obstacle
        return programs

    def reason_for_loop(self, programs: Sequence[Program], tasks_at_once: int, order: int) -> str | None:
        """Return why one task after another is faster than ``tasks_at_once`` at once; ``None`` if it is not.

        Nets of conv blocks are always faster in batches, and so are all nets on a GPU. For other nets on a CPU, these
        speedups over a plain loop were measured, for 1, 2, 3, 4 and 8 tasks at once at order 2: a transformer 0.7, 1.0,
        1.1, 1.3, 1.6; a GRU 0.7, 1.2, 1.4, 1.9, 2.7; an autoencoder 0.8, 1.3, 1.5, 1.8, 2.2; a net for sine waves 0.9,
        1.3, 1.8, 2.2, 3.2. For 3, 4, 8 and 16 tasks, an LSTM has 1.7, 2.2, 2.7, 3.3 at order 2 and 0.6, 0.7, 0.9, 1.1
        at order 1.
        """
        if requested_engine.get() == "batched" or any(program.blocks() for program in programs):
            return None
        if next(iter(self.model.parameters())).device.type != "cpu":
            return None
        if tasks_at_once < MIN_BATCHED_TASKS:
            few = f"{tasks_at_once} task{'s' if tasks_at_once > 1 else ''} at a time"
            why = f"{few}: fewer than {MIN_BATCHED_TASKS} gain nothing together on a CPU"
        elif order == 1 and any(program.has_onednn_lstm for program in programs):
            why = "at first order oneDNN's LSTM is faster alone"
        else:
            return None
        assert self.last is not None
        self.last = self.last._replace(by=why)
        return why

    def as_written(self) -> AsWritten:
        """Return the module in its current state, to be run task by task."""
        watch = self.watch()
        if watch is None:
            return AsWritten(self.model, self.policy, None)
        if self._as_written is None or self._as_written[0] is not watch:
            self._as_written = watch, AsWritten(self.model, self.policy, watch)
        return self._as_written[1]

    def with_buffers(self, parameters: Mapping[str, Tensor], programs: Sequence[Program]) -> dict[str, Tensor]:
        """Return the parameters, and copies of the buffers that the programs read."""
        names = _names(programs, lambda program: program.names)
        buffers = self.model.named_buffers() if names.difference(parameters) else ()
        return {**parameters, **{name: buffer.clone() for name, buffer in buffers if name in names}}

    def in_kernel_order(self, parameters: Mapping[str, Tensor], programs: Sequence[Program]) -> dict[str, Tensor]:
        """Return the parameters with filters in the kernels' memory layout; done once before many calls."""
        filters = _names(programs, Program.filters)
        return {
            name: ops.in_kernel_order(parameter) if name in filters else parameter
            for name, parameter in parameters.items()
        }

    def report(self) -> FusionReport | None:
        """Return what ran on the fused op in the last call; ``None`` before the first call and without fusion."""
        if self.last is None or self._programs is None:
            return None
        by, recorded, _ = self.last
        if recorded is None:
            return FusionReport(self.policy, left=(f"forward: {by}",))
        return FusionReport(self.policy, () if isinstance(by, str) else recorded.fused, recorded.convolutions_left)

    def describe(self, is_native: bool = False) -> str:
        """Return how the module ran in the last call, and why; ``is_native`` says that the native engine ran it."""
        if self.last is None:
            return "recorded at the first call"
        by = self.last.by
        if is_native and isinstance(by, str):
            return "as native operations"
        return f"as written, task by task ({by})" if isinstance(by, str) else "all tasks at once"

    def _obstacle(self, program: Program, x: Tensor) -> str | None:
        """Return why one task after another is faster than all at once; ``None`` if it is not.

        All at once is faster on a GPU, and with conv blocks, whose kernels take all tasks. Otherwise, one call for all
        tasks saves Python overhead and its tasks are shared by threads, but with large weights its matrix products are
        slower than those of single tasks. Measured speedups of multilayer perceptrons with 784 inputs and two hidden
        layers, on one thread and on two: 0.9 to 1.3 and 1.3 to 1.7 with 200,000 parameters, 0.6 to 0.9 and 0.8 to 1.1
        with 650,000, 0.3 to 0.6 and 0.4 to 0.7 with 1,800,000. On a CPU, PyTorch's grouped convolution has no fast
        double backward.
        """
        if x.device.type != "cpu":
            return None
        if program.convolutions_left:
            return f"{program.convolutions_left[0]}: PyTorch's own convolution is faster alone on a CPU"
        most = MAX_BATCHED_PARAMETERS[torch.get_num_threads() == 1]
        if self._size <= most or program.blocks():
            return None
        return f"{self._size:,} parameters without a conv block: more than {most:,} gain nothing together on a CPU"


def _no_watch() -> None:
    return None


def _names(programs: Sequence[Program], of: Callable[[Program], Collection[str]]) -> set[str]:
    return {name for program in programs for name in of(program)}

"""The task-batched forward pass of any module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from maml_fast.fusion import FusedModel, FusionReport, fuse
from maml_fast.fusion.conv_net import ConvNet
from maml_fast.fusion.task_program import RunBlock, TaskProgram
from maml_fast.maml.as_written import AsWritten
from maml_fast.maml.batch_norm import BatchNormPolicy

__all__ = ["TaskForward"]

WORTH_IT = 100_000  # parameters of a model without conv blocks, on a CPU: see TaskForward._pays


class TaskForward:
    """Calls a module for ``T`` tasks: ``forward(fast, shared, x) -> logits``.

    A fused module whose recording has a form for all tasks at once runs by that, operation by operation, where it pays.
    Any other module runs as it is written, task by task. :meth:`describe` tells which, and why. Ordinary autograd
    differentiates either.
    """

    def __init__(self, model: nn.Module, policy: BatchNormPolicy, fused: bool) -> None:
        self.module = fuse(model, batch_norm=policy) if fused else model
        self.model = model
        self.policy = policy
        self._size = sum(parameter.numel() for parameter in model.parameters())

    def __call__(
        self,
        fast: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        x: Tensor,
        run_block: RunBlock | None = None,
    ) -> Tensor:
        """Logits [T, N, ...] of x [T, N, ...].

        ``fast`` holds each task's own parameters [T, ...]; ``shared`` the parameters that all tasks have in common.
        With ``run_block`` the module must run for all tasks at once: :meth:`filters` tells.
        """
        program = self._program()
        if not isinstance(program, str):
            return program(fast, shared, x, run_block)
        as_written = self.as_written()
        tasks = ({**shared, **{name: weight[t] for name, weight in fast.items()}} for t in range(len(x)))
        return torch.stack([as_written.begin_task()(*task) for task in zip(tasks, x, strict=True)])

    def as_written(self) -> AsWritten:
        """The module as it is now, to be run task by task."""
        return AsWritten(self.model, self.policy)

    def runs_together(self) -> bool:
        """Whether one call of each operation does all tasks."""
        return not isinstance(self._program(), str)

    def in_common(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What all tasks have in common, for :meth:`__call__`: these parameters, and copies of the buffers."""
        if not self.runs_together():
            return dict(parameters)
        return {**parameters, **{name: buffer.clone() for name, buffer in self.module.named_buffers()}}

    def in_kernel_order(self, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The parameters laid out in memory as what runs here reads them, to be done once before many calls."""
        return self.module.in_kernel_order(parameters) if isinstance(self.module, FusedModel) else parameters

    def conv_net(self) -> ConvNet | str:
        """The module as a chain of conv blocks, in the training modes that it is in, or why it is none."""
        recorded = self._recorded()
        return recorded if isinstance(recorded, str) else recorded.conv_net()

    def filters(self) -> list[str] | str:
        """The names of the conv blocks' filters, in their order, or why they can't be told."""
        program = self._program()
        return program if isinstance(program, str) else program.filters()

    def fusion(self) -> FusionReport | None:
        """What runs on the fused op; ``None`` where fusion is switched off."""
        if not isinstance(self.module, FusedModel):
            return None
        return self.module.report if self.runs_together() else replace(self.module.report, fused=())

    def describe(self) -> str:
        """What runs the module in the training modes that it is in, and why."""
        program = self._program()
        return f"as written, task by task ({program})" if isinstance(program, str) else "all tasks at once"

    def _program(self) -> TaskProgram | str:
        recorded = self._recorded()
        if isinstance(recorded, str):
            return recorded
        program = recorded.task_program()
        if isinstance(program, str) or self._pays(program):
            return program
        return f"{self._size:,} parameters without a conv block: more than {WORTH_IT:,} gain nothing together on a CPU"

    def _recorded(self) -> FusedModel | str:
        """The fused module, in the modes that the model is in, or why it can't stand for the model."""
        if not isinstance(self.module, FusedModel):
            return "fusion is switched off"
        for name, part in self.module.original.named_modules():
            if "forward" in vars(part):
                return f"the forward of {name or 'the model'} was replaced on the instance"
        self.module.follow_modes()
        return self.module

    def _pays(self, program: TaskProgram) -> bool:
        """Whether all tasks at once are faster than one after another.

        On a GPU they are, and where there are conv blocks, whose kernels take all tasks. Else one call for all tasks
        saves Python's overhead, but its matrix products are slower for large weights than one task's. Multilayer
        perceptrons of 784 inputs and two hidden layers, as times as fast as a plain loop over 4 tasks of 5 and 25
        images on one thread, order 2 and 1: of 27,000 parameters 1.3 and 1.1 together, 0.8 and 0.8 task by task; of
        85,000 1.1 and 0.9 against 0.9 and 0.8; of 189,000 0.91 and 0.87 against 0.97 and 0.98.
        """
        on_cpu = next(iter(self.model.parameters())).device.type == "cpu"
        return not on_cpu or self._size <= WORTH_IT or bool(program.filters())

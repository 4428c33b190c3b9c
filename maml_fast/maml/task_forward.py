"""The task-batched forward pass of any module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from maml_fast.fusion import FusedModel, fuse
from maml_fast.fusion.conv_net import ConvNet
from maml_fast.fusion.task_program import RunBlock, TaskProgram
from maml_fast.maml.batch_norm import BatchNormMode, BatchNormPolicy
from maml_fast.maml.task_map import TaskMap

__all__ = ["TaskForward"]


class TaskForward:
    """Calls a module for ``T`` tasks at once: ``forward(fast, shared, x) -> logits``.

    A fused module whose recording has a form for all tasks at once runs by that, operation by operation; any other one
    through ``torch.func.vmap`` over ``functional_call``, some 0.1 ms an operation slower. :meth:`describe` tells which.
    Ordinary autograd differentiates the result: ``vmap(grad(...))`` over ``F.batch_norm`` is wrong at second order, in
    silence.
    """

    def __init__(self, model: nn.Module, policy: BatchNormPolicy, fused: bool) -> None:
        self.module = fuse(model, batch_norm=policy) if fused else model
        self.policy = policy
        self._all_tasks = TaskMap("the model")

    def __call__(
        self,
        fast: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        x: Tensor,
        run_block: RunBlock | None = None,
    ) -> Tensor:
        """Logits [T, N, ...] of x [T, N, ...].

        ``fast`` holds each task's own parameters [T, ...]; ``shared`` the parameters and buffers that all tasks have in
        common. What the module writes into its buffers stays in ``shared``. With ``run_block`` the module must run
        step by step: :meth:`filters` tells.
        """
        program = self._program()
        if not isinstance(program, str):
            return program(fast, shared, x, run_block)
        names = _names_of_tensors(self.module)
        own, common = ({name: each[first] for first in each for name in names[first]} for each in (fast, shared))
        with BatchNormMode(self.policy):
            return self._all_tasks(self._one_task, (own, x), (common,))

    def in_common(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What all tasks have in common: these parameters, and copies of the buffers.

        A module may write to its buffers (batch norm counts its batches): into the copies, never into the model.
        """
        return {**parameters, **{name: buffer.clone() for name, buffer in self.module.named_buffers()}}

    def in_kernel_order(self, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The parameters laid out in memory as what runs here reads them, to be done once before many calls."""
        return self.module.in_kernel_order(parameters) if isinstance(self.module, FusedModel) else parameters

    def conv_net(self) -> ConvNet | str:
        """The module as a chain of conv blocks, in the training modes that it is in, or why it is none."""
        if not isinstance(self.module, FusedModel):
            return "fusion is switched off"
        self.module.follow_modes()
        return self.module.conv_net()

    def filters(self) -> list[str] | str:
        """The names of the conv blocks' filters, in their order, or why they can't be told."""
        program = self._program()
        return program if isinstance(program, str) else program.filters()

    def describe(self) -> str:
        """What runs the module in the training modes that it is in, and why."""
        program = self._program()
        return f"torch.func.vmap ({program})" if isinstance(program, str) else "all tasks at once, step by step"

    def _program(self) -> TaskProgram | str:
        if not isinstance(self.module, FusedModel):
            return "fusion is switched off"
        self.module.follow_modes()
        return self.module.task_program()

    def _one_task(self, own: Mapping[str, Tensor], x: Tensor, common: Mapping[str, Tensor]) -> Tensor:
        logits = functional_call(self.module, {**common, **own}, (x,), tie_weights=False)
        if not isinstance(logits, Tensor):
            raise TypeError(f"the model must return one tensor of logits, got {type(logits).__name__}")
        return logits


def _names_of_tensors(module: nn.Module) -> dict[str, list[str]]:
    """Every place of each parameter and buffer, by its first name: tied ones have several.

    ``functional_call`` can tie by itself, but where a whole module has two names it then leaves the tensors it was
    given in the module for good.
    """
    first_name: dict[Tensor, str] = {}
    places: dict[str, list[str]] = {}
    for prefix, part in module.named_modules():
        own = (*part.named_parameters("", False, False), *part.named_buffers("", False, False))
        for name, tensor in own:
            place = f"{prefix}.{name}" if prefix else name
            places.setdefault(first_name.setdefault(tensor, place), []).append(place)
    return places

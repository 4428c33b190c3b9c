"""The task-batched forward pass of any module, and the batch-norm policy under which it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from maml_fast.fusion import fuse
from maml_fast.fusion.report import BatchNormPolicy
from maml_fast.maml.task_map import TaskMap

__all__ = ["BATCH_NORM_POLICIES", "BatchNormMode", "TaskForward"]

# What is printed beside every accuracy.
BATCH_NORM_POLICIES: dict[BatchNormPolicy, str] = {
    "batch": "batch statistics (transductive, as in Finn's code)",
    "running": "the model's running statistics (read, never updated; not transductive)",
}


class BatchNormMode(TorchFunctionMode):
    """Inside this context every ``nn.BatchNorm*d`` and ``F.batch_norm`` obeys the policy, not train() or eval().

    ``"batch"`` normalises by the batch's own statistics, and the running ones are neither read nor written;
    ``"running"`` reads the running ones and never updates them.
    """

    def __init__(self, policy: BatchNormPolicy) -> None:
        super().__init__()
        self._batch_norm = _by_batch_statistics if policy == "batch" else _by_running_statistics

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        if func is torch.batch_norm:
            return self._plain_batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _plain_batch_norm(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        return self._batch_norm(input, running_mean, running_var, weight, bias, eps=eps)


def _by_batch_statistics(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if weight is None and bias is not None:
        weight = torch.ones_like(bias)  # PyTorch's double backward fails on a shift without a scale
    return F.batch_norm(input, None, None, weight, bias, training=True, eps=eps)


def _by_running_statistics(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm='running', but a batch norm of the model keeps no running statistics")
    return F.batch_norm(input, running_mean, running_var, weight, bias, training=False, eps=eps)


class TaskForward:
    """Calls a module for ``T`` tasks at once: ``forward(fast, shared, x) -> logits``.

    This is the seam for faster executors; this one is ``torch.func.vmap`` over ``functional_call``. Ordinary autograd
    differentiates the result: ``vmap(grad(...))`` over ``F.batch_norm`` is wrong at second order, in silence.
    """

    def __init__(self, model: nn.Module, policy: BatchNormPolicy, fused: bool) -> None:
        self.model = model
        self.module = fuse(model, batch_norm=policy) if fused else model
        self.policy = policy
        self._modes: dict[str, bool] = {}
        self._all_tasks = TaskMap("the model")

    def __call__(self, fast: Mapping[str, Tensor], shared: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits [T, N, ...] of x [T, N, ...].

        ``fast`` holds each task's own parameters [T, ...]; ``shared`` the parameters and buffers that all tasks have in
        common. What the module writes into its buffers stays in ``shared``.
        """
        self._follow_modes()
        names = _names_of_tensors(self.module)
        own, common = ({name: each[first] for first in each for name in names[first]} for each in (fast, shared))
        with BatchNormMode(self.policy):
            return self._all_tasks(self._one_task, (own, x), (common,))

    def _follow_modes(self) -> None:
        """Put the fused copy into the model's training modes, which dropout obeys."""
        modes = {name: module.training for name, module in self.model.named_modules()}
        if self.module is self.model or modes == self._modes:
            return
        self.module.train(self.model.training)
        for name, module in self.module.named_modules():
            module.training = modes.get(name, module.training)
        self._modes = modes

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

"""The batch-norm policies, and the mode that enforces one on every batch norm that a module calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from maml_fast.nn import batch_stat_norm
from maml_fast.program._report import FusionPolicy

__all__ = ["BATCH_NORMS", "BATCH_NORM_POLICIES", "BatchNormMode", "BatchNormPolicy", "InnerBatchNorm", "is_per_step"]

BatchNormPolicy: TypeAlias = Literal["batch", "running"]
InnerBatchNorm: TypeAlias = BatchNormPolicy | Literal["per_step", "per_step_running"]  # for inner loops

# The descriptions printed beside every accuracy.
BATCH_NORM_POLICIES: dict[InnerBatchNorm, str] = {
    "batch": "batch statistics (transductive, as in Finn's code)",
    "running": "the model's running statistics (read, never updated; not transductive)",
    "per_step": "batch statistics (transductive), scale and shift of every inner step",
    "per_step_running": "running statistics, scale and shift of every inner step (not transductive)",
}

BATCH_NORMS = (F.batch_norm, torch.batch_norm)  # the functions that the mode intercepts


def is_per_step(policy: InnerBatchNorm) -> bool:
    """Whether every inner step has its own batch-norm parameters."""
    return policy.startswith("per_step")


class BatchNormMode(TorchFunctionMode):
    """Make every ``nn.BatchNorm*d`` and ``F.batch_norm`` inside this context follow a policy, not train() or eval().

    ``"batch"`` normalizes by the batch's own statistics; running statistics are neither read nor written.
    ``"running"`` reads running statistics and never updates them. ``"as_written"`` leaves the choice to the module.

    Raises:
        ValueError: under ``"running"``, when a batch norm without running statistics is called.
    """

    def __init__(self, policy: FusionPolicy) -> None:
        super().__init__()
        self._policy = policy

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        if func is torch.batch_norm:
            return self._torch_batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _torch_batch_norm(
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
        return self._batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if self._policy == "batch":
            running_mean, running_var, training = None, None, True
        elif self._policy == "running":
            training = False
            if running_mean is None or running_var is None:
                raise ValueError("batch_norm='running', but a batch norm of the model keeps no running statistics")
        return self.normalized(
            input, running_mean, running_var, weight, bias, training=training, momentum=momentum, eps=eps
        )

    def normalized(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Run ``F.batch_norm`` on arguments that already follow the policy."""
        if training and running_mean is None and torch._C._are_functorch_transforms_active():
            return batch_stat_norm(input, weight, bias, eps)  # PyTorch's second derivative is wrong under torch.func
        if weight is None and bias is not None and training:
            weight = torch.ones_like(bias)  # PyTorch's double backward fails on a shift without a scale
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

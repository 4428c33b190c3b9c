"""Guard against third derivatives of batch norm and layer norm, which PyTorch silently computes wrongly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from maml_fast.inner_loop._gradient import not_differentiable
from maml_fast.inner_loop._problem import InnerProblem

__all__ = ["ThirdDerivativeGuard"]

# Autograd nodes whose double backward has a wrong derivative (pytorch#175754, #186256).
_WRONG_DOUBLE_BACKWARD = {
    "NativeBatchNormBackward0": "batch norm",
    "CudnnBatchNormBackward0": "batch norm",
    "MiopenBatchNormBackward0": "batch norm",
    "NativeLayerNormBackward0": "layer norm",
}
_WHY = (
    "the meta-gradient can't be differentiated: PyTorch's third derivative of {norm} is wrong; with "
    "maml_fast.use_engine('batched') and maml_fast.use_backend('reference') norms are elementary operations, "
    "which differentiate any number of times"
)


class ThirdDerivativeGuard:
    """Raises when a meta-gradient is differentiated whose graph contains such a norm.

    :meth:`watch` wraps theta before the inner loops, so that all gradients with respect to it pass through the guard.
    """

    def __init__(self) -> None:
        self.norm: str | None = None
        self._watches = False

    def watch(self, problem: InnerProblem) -> InnerProblem:
        """Return the problem with theta wrapped, if it is of second order and tasks run as written."""
        if problem.is_batched or problem.order == 1 or problem.steps == 0 or not torch.is_grad_enabled():
            return problem
        if torch._C._are_functorch_transforms_active():
            return problem
        self._watches = True
        return problem.with_theta(lambda tensor: _Watched.apply(tensor, self) if tensor.requires_grad else tensor)

    def inspect(self, results: Iterable[Tensor]) -> None:
        """Search the graph of ``results`` for such norms."""
        roots = [result.grad_fn for result in results] if self._watches else []
        todo: list[Any] = [root for root in roots if root is not None]
        seen = set(todo)
        while todo:
            node = todo.pop()
            self.norm = _WRONG_DOUBLE_BACKWARD.get(node.name())
            if self.norm is not None:
                return
            new = {each for each, _ in node.next_functions if each is not None} - seen
            seen |= new
            todo += new


class _Watched(torch.autograd.Function):
    """Identity on theta; if the guard found a norm, the gradient can't be differentiated."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, guard: ThirdDerivativeGuard) -> Tensor:
        ctx.guard = guard
        return theta.view_as(theta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled() and ctx.guard.norm is not None:  # create_graph=True
            gradient = not_differentiable(gradient, _WHY.format(norm=ctx.guard.norm))
        return gradient, None

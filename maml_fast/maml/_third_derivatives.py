"""Third derivatives that PyTorch computes wrongly, in silence: those of its own batch and layer norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from maml_fast.maml._gradient import final
from maml_fast.maml._problem import InnerProblem

__all__ = ["ThirdDerivatives"]

# Nodes of autograd's graph whose double backward has no right derivative of its own (pytorch#175754, #186256).
_WRONG = {
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


class ThirdDerivatives:
    """Refuses to differentiate a meta-gradient where a task's graph holds such a norm.

    Theta goes through :meth:`of` on its way into the inner loops, so that all gradients come by here on their way out.
    """

    def __init__(self) -> None:
        self.norm: str | None = None
        self._watches = False

    def of(self, problem: InnerProblem) -> InnerProblem:
        """The problem with theta's stand-ins, where gradients of gradients are part of it and tasks run as written."""
        if problem.together or problem.order == 1 or problem.steps == 0 or not torch.is_grad_enabled():
            return problem
        if torch._C._are_functorch_transforms_active():
            return problem
        self._watches = True
        return problem.at(lambda tensor: _Watched.apply(tensor, self) if tensor.requires_grad else tensor)

    def look(self, results: Iterable[Tensor]) -> None:
        """Look for such norms in the graph that led to these results."""
        roots = [result.grad_fn for result in results] if self._watches else []
        todo: list[Any] = [root for root in roots if root is not None]
        seen = set(todo)
        while todo:
            node = todo.pop()
            self.norm = _WRONG.get(node.name())
            if self.norm is not None:
                return
            new = {each for each, _ in node.next_functions if each is not None} - seen
            seen |= new
            todo += new


class _Watched(torch.autograd.Function):
    """Theta itself; a gradient of it that has a graph can't be differentiated if there is a reason."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, third: ThirdDerivatives) -> Tensor:
        ctx.third = third
        return theta.view_as(theta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled() and ctx.third.norm is not None:  # create_graph=True
            gradient = final(gradient, _WHY.format(norm=ctx.third.norm))
        return gradient, None

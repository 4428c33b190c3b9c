"""Gradient descent through which gradients flow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from maml_fast._arguments import many, nn_module, number, optional, takes, tensor, tensor_or
from maml_fast.compat.learn2learn.utils import update_module

__all__ = ["DifferentiableSGD"]


class DifferentiableSGD(nn.Module):
    """Replaces every parameter p of a module by p - lr * g, differentiably: ``sgd(module, gradients)``.

    Args:
        lr: the learning rate, a number or a tensor.
    """

    @takes(lr=tensor_or(number()))
    def __init__(self, lr: float | Tensor) -> None:
        super().__init__()
        self.lr = lr

    @takes(module=nn_module, gradients=optional(many(optional(tensor))))
    def forward(self, module: nn.Module, gradients: Sequence[Tensor | None] | None = None) -> None:
        """Take one step, in place.

        Args:
            module: the cloned module.
            gradients: one gradient g for each of its parameters, where ``None`` leaves the parameter unchanged; by
                default their ``.grad``.
        """
        steps = [parameter.grad for parameter in module.parameters()] if gradients is None else gradients
        update_module(module, [None if step is None else step.mul(-self.lr) for step in steps])

"""Model-agnostic meta-learning, one task at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, many, nn_module, number, optional, takes, tensor, tensor_or
from maml_fast.compat.learn2learn._copies import replace_tensors
from maml_fast.compat.learn2learn.algorithms._gradients import default, gradients_of
from maml_fast.compat.learn2learn.algorithms.base_learner import BaseLearner
from maml_fast.compat.learn2learn.utils import clone_module, update_module
from maml_fast.inner_loop._rates import check_broadcasts

__all__ = ["MAML", "maml_update"]

RATE = tensor_or(number())

M = TypeVar("M", bound=nn.Module)


class MAML(BaseLearner):
    """Model-agnostic meta-learning, one task at a time: ``clone()`` for every task, ``adapt`` the clone.

    Args:
        model: any module of one task.
        lr: the learning rate of :meth:`adapt`; a number or a tensor.
        first_order: whether :meth:`adapt` treats the gradient as a constant (first-order MAML).
        allow_unused: whether :meth:`adapt` leaves parameters unchanged that the loss does not depend on, instead of
            raising; by default the value of ``allow_nograd``.
        allow_nograd: whether :meth:`adapt` leaves parameters unchanged that do not require gradients, instead of
            raising.

    Attributes:
        module: the model; in a clone, a clone of the model.

    Raises:
        TypeError, ValueError: if the model is not a module, the rate is neither a finite number nor a tensor, or a flag
            is neither True nor False.

    Source: Finn et al. 2017, algorithm 1.
    """

    @takes(model=nn_module, lr=RATE, first_order=flag, allow_unused=optional(flag), allow_nograd=flag)
    def __init__(
        self,
        model: nn.Module,
        lr: float | Tensor,
        first_order: bool = False,
        allow_unused: bool | None = None,
        allow_nograd: bool = False,
    ) -> None:
        super().__init__(model)
        self.lr = lr
        self.first_order = first_order
        self.allow_unused = default(allow_unused, allow_nograd)
        self.allow_nograd = allow_nograd

    @takes(first_order=optional(flag), allow_unused=optional(flag), allow_nograd=optional(flag))
    def clone(
        self, first_order: bool | None = None, allow_unused: bool | None = None, allow_nograd: bool | None = None
    ) -> MAML:
        """Return a learner whose parameters are differentiable functions of this learner's.

        ``backward()`` on a loss of the clone, before or after it has adapted, adds to the ``.grad`` of this learner's
        parameters. Clones can be cloned.

        Args:
            first_order, allow_unused, allow_nograd: settings of the clone; by default those of this learner.
        """
        return MAML(
            clone_module(self.module),
            lr=self.lr,
            first_order=default(first_order, self.first_order),
            allow_unused=default(allow_unused, self.allow_unused),
            allow_nograd=default(allow_nograd, self.allow_nograd),
        )

    @takes(loss=tensor, first_order=optional(flag), allow_unused=optional(flag), allow_nograd=optional(flag))
    def adapt(
        self,
        loss: Tensor,
        first_order: bool | None = None,
        allow_unused: bool | None = None,
        allow_nograd: bool | None = None,
    ) -> None:
        """Take one step of gradient descent on ``loss``, in place.

        Args:
            loss: a scalar, computed from outputs of this clone.
            first_order, allow_unused, allow_nograd: as for the class; by default the settings of this learner.

        Raises:
            ValueError: if ``loss`` is not a single number.
            RuntimeError: if ``loss`` does not depend on a parameter, or a parameter does not require gradients, unless
                that is allowed.
        """
        module = self.module
        gradients = gradients_of(
            loss,
            module,
            first_order=default(first_order, self.first_order),
            allow_unused=default(allow_unused, self.allow_unused),
            allow_nograd=default(allow_nograd, self.allow_nograd),
        )
        _check_rate(module, self.lr)
        steps = zip(module.parameters(), gradients, strict=True)
        updated = {id(p): _step(p, self.lr, gradient) for p, gradient in steps if gradient is not None}
        replace_tensors(module.modules(), updated)


@takes(model=nn_module, lr=RATE, grads=optional(many(optional(tensor))))
def maml_update(model: M, lr: float | Tensor, grads: Sequence[Tensor | None] | None = None) -> M:
    """Replace every parameter p of a cloned module by p - lr * g, differentiably; return the module.

    Args:
        model: the cloned module, changed in place.
        lr: the learning rate, a number or a tensor.
        grads: one gradient g for each of ``model.parameters()``; ``None`` leaves the parameter unchanged. By default,
            the ``.update`` attributes of the parameters are added, as by ``update_module(model)``.

    Raises:
        TypeError: if a gradient is not a tensor.
        ValueError: if the number of gradients is not that of the parameters, or a gradient has the wrong shape.
    """
    _check_rate(model, lr)
    return update_module(model, None if grads is None else [None if g is None else -lr * g for g in grads])


def _step(parameter: Tensor, lr: float | Tensor, gradient: Tensor) -> Tensor:
    """Return p - lr * g in as few operations as possible, of which each has a backward pass."""
    if isinstance(lr, Tensor):
        return parameter + -lr * gradient  # the backward pass of a subtraction has one more operation
    return torch.add(parameter, gradient, alpha=-lr)


def _check_rate(model: nn.Module, lr: float | Tensor) -> None:
    if isinstance(lr, Tensor) and lr.dim() > 0:
        check_broadcasts(lr, dict(model.named_parameters()), "lr")

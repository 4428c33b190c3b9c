"""Gradient-based meta-learning whose updates are gradients that went through a learned transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, nn_module, number, optional, takes, tensor, tensor_or
from maml_fast.compat.learn2learn._fused_calls import renew
from maml_fast.compat.learn2learn.algorithms._gradients import default
from maml_fast.compat.learn2learn.algorithms.base_learner import Fusing
from maml_fast.compat.learn2learn.optim import DifferentiableSGD, ParameterUpdate
from maml_fast.compat.learn2learn.utils import clone_module

__all__ = ["GBML"]


class GBML(Fusing):
    """A module that adapts to a task by transformed gradients; the transform can be learned, and can adapt too.

    Args:
        module: any module of one task.
        transform: called with each parameter of the module; returns the module that makes an update of its gradient,
            or ``None`` to take the gradient itself. See :mod:`maml_fast.compat.learn2learn.optim`.
        lr: the learning rate of :meth:`adapt`, for the module and the transform.
        adapt_transform: whether :meth:`adapt` also updates the transform, from a clone's second step on.
        first_order: whether :meth:`adapt` treats gradients as constants.
        allow_unused: whether parameters may have no influence on the loss; they stay as they are.
        allow_nograd: whether parameters may not require gradients; they stay as they are.
        compute_update: the transforms themselves, made from those of another learner.

    Attributes:
        module: the model; in a clone, a clone of the model.
        compute_update: a :class:`~maml_fast.compat.learn2learn.optim.ParameterUpdate`, which holds the transforms.

    Raises:
        TypeError, ValueError: if an argument has the wrong type, or the transform returns something else.

    Source: Park & Oliva 2019, Meta-Curvature; Arnold et al. 2019, When MAML can adapt fast.
    """

    @takes(
        module=nn_module,
        lr=tensor_or(number()),
        adapt_transform=flag,
        first_order=flag,
        allow_unused=flag,
        allow_nograd=flag,
        compute_update=optional(nn_module),
    )
    def __init__(
        self,
        module: nn.Module,
        transform: Callable[[Tensor], nn.Module | None],
        lr: float | Tensor = 1.0,
        adapt_transform: bool = False,
        first_order: bool = False,
        allow_unused: bool = False,
        allow_nograd: bool = False,
        compute_update: nn.Module | None = None,
    ) -> None:
        super().__init__()
        renew(module)
        self.module = module
        self.transform = transform
        self.adapt_transform = adapt_transform
        self.lr = lr
        self.first_order = first_order
        self.allow_unused = allow_unused
        self.allow_nograd = allow_nograd
        self.compute_update = compute_update or ParameterUpdate(module.parameters(), transform)
        self.diff_sgd = DifferentiableSGD(lr)
        self._has_adapted = False

    @takes(
        first_order=optional(flag),
        allow_unused=optional(flag),
        allow_nograd=optional(flag),
        adapt_transform=optional(flag),
    )
    def clone(
        self,
        first_order: bool | None = None,
        allow_unused: bool | None = None,
        allow_nograd: bool | None = None,
        adapt_transform: bool | None = None,
    ) -> GBML:
        """Return a learner whose parameters and transforms are differentiable functions of this learner's.

        Args:
            first_order, allow_unused, allow_nograd, adapt_transform: settings of the clone; by default those of this
                learner.
        """
        return GBML(
            clone_module(self.module),
            self.transform,
            lr=self.lr,
            adapt_transform=default(adapt_transform, self.adapt_transform),
            first_order=default(first_order, self.first_order),
            allow_unused=default(allow_unused, self.allow_unused),
            allow_nograd=default(allow_nograd, self.allow_nograd),
            compute_update=clone_module(self.compute_update),
        )

    @takes(loss=tensor, first_order=optional(flag), allow_nograd=optional(flag), allow_unused=optional(flag))
    def adapt(
        self,
        loss: Tensor,
        first_order: bool | None = None,
        allow_nograd: bool | None = None,
        allow_unused: bool | None = None,
    ) -> None:
        """Take one step on ``loss``, in place: of the transform, if it adapts, and then of the module.

        Args:
            loss: a scalar, computed from outputs of this clone.
            first_order, allow_nograd, allow_unused: as for the class; by default the settings of this learner.

        Raises:
            RuntimeError: if ``loss`` does not depend on a parameter, or a parameter does not require gradients, unless
                that is allowed.
        """
        second_order = not default(first_order, self.first_order)
        allowed: dict[str, Any] = {"allow_unused": default(allow_unused, self.allow_unused)}
        if self.adapt_transform and self._has_adapted:
            transforms = list(self.compute_update.parameters())
            gradients = torch.autograd.grad(loss, transforms, retain_graph=True, create_graph=second_order, **allowed)
            self.diff_sgd(self.compute_update, gradients)
        updates = self.compute_update(
            loss,
            self.module.parameters(),
            create_graph=second_order or self.adapt_transform,
            retain_graph=second_order or self.adapt_transform,
            allow_nograd=default(allow_nograd, self.allow_nograd),
            **allowed,
        )
        self.diff_sgd(self.module, updates)
        self._has_adapted = True

"""MAML with a learned rate for every element of every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, many, nn_module, number, optional, takes, tensor
from maml_fast.compat.learn2learn.algorithms._gradients import default, gradients_of
from maml_fast.compat.learn2learn.algorithms.base_learner import BaseLearner
from maml_fast.compat.learn2learn.utils import clone_module, clone_parameters, update_module
from maml_fast.inner_loop._rates import check_broadcasts

__all__ = ["MetaSGD", "meta_sgd_update"]

M = TypeVar("M", bound=nn.Module)


class MetaSGD(BaseLearner):
    """MAML with a learned rate for every element of every parameter.

    Args:
        model: any module of one task.
        lr: initial value of all rates.
        first_order: whether :meth:`adapt` treats the gradient as a constant.
        lrs: the rates themselves, instead of ``lr``: one tensor for each of ``model.parameters()``, in their order.

    Attributes:
        module: the model; in a clone, a clone of the model.
        lrs: the rates, a ``ParameterList``; in a clone, tensors that are differentiable functions of them.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the number of ``lrs`` is not that of the parameters, a rate does not fit its parameter's shape,
            or ``lr`` is not finite.

    Source: Li et al. 2017, Meta-SGD, algorithm 1.
    """

    @takes(model=nn_module, lr=number(), first_order=flag)
    def __init__(
        self,
        model: nn.Module,
        lr: float = 1.0,
        first_order: bool = False,
        lrs: Sequence[Tensor] | nn.ParameterList | None = None,
    ) -> None:
        super().__init__(model)
        names = {parameter: name for name, parameter in model.named_parameters()}
        parameters = list(names)
        if lrs is None:
            lrs = nn.ParameterList([nn.Parameter(torch.full_like(parameter, lr)) for parameter in parameters])
        rates = many(tensor)("lrs", lrs)  # a ParameterList is kept as it is
        if len(rates) != len(parameters):
            raise ValueError(f"lrs must hold a rate for each of {len(parameters)} parameters, got {len(rates)}")
        for i, (parameter, rate) in enumerate(zip(parameters, rates, strict=True)):
            if rate.shape != parameter.shape:
                check_broadcasts(rate, {names[parameter]: parameter}, f"lrs[{i}]")
        self.lrs = lrs
        self.first_order = first_order

    def clone(self) -> MetaSGD:
        """Return a learner whose parameters and rates are differentiable functions of this learner's."""
        return MetaSGD(clone_module(self.module), first_order=self.first_order, lrs=clone_parameters(self.lrs))

    @takes(loss=tensor, first_order=optional(flag))
    def adapt(self, loss: Tensor, first_order: bool | None = None) -> None:
        """Take one step of gradient descent on ``loss``, in place.

        Args:
            loss: a scalar, computed from outputs of this clone.
            first_order: as for the class; by default the setting of this learner.

        Raises:
            ValueError: if ``loss`` is not a single number.
            RuntimeError: if ``loss`` does not depend on a parameter, or a parameter does not require gradients.
        """
        gradients = gradients_of(loss, self.module, first_order=default(first_order, self.first_order))
        meta_sgd_update(self.module, self.lrs, gradients)


@takes(model=nn_module, lrs=optional(many(tensor)), grads=optional(many(optional(tensor))))
def meta_sgd_update(
    model: M, lrs: Sequence[Tensor] | nn.ParameterList | None = None, grads: Sequence[Tensor | None] | None = None
) -> M:
    """Replace every parameter p of a cloned module by p - lr * g, with a rate of its own; return the module.

    Args:
        model: the cloned module, changed in place.
        lrs: one rate for each of ``model.parameters()``; by default the ``._lr`` attributes of the parameters.
        grads: one gradient g for each of ``model.parameters()``, where ``None`` leaves the parameter unchanged; by
            default their ``.grad``.

    Raises:
        TypeError: if a rate or a gradient is not a tensor.
        ValueError: if the number of rates or gradients is not that of the parameters.
    """
    parameters = list(model.parameters())
    rates = [getattr(p, "_lr", None) for p in parameters] if lrs is None else list(lrs)
    gradients = [p.grad for p in parameters] if grads is None else list(grads)
    for what, values in (("rates", rates), ("gradients", gradients)):
        if len(values) != len(parameters):
            raise ValueError(f"the module has {len(parameters)} parameters, got {len(values)} {what}")
    steps = zip(rates, gradients, strict=True)
    return update_module(model, [None if g is None or rate is None else -(rate * g) for rate, g in steps])

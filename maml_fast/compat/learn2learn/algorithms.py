"""learn2learn's wrappers: a module that makes clones of itself, which adapt to a task by gradient steps.

Calling a wrapper or a clone runs the module's conv-BN-ReLU-pool on the fused kernels, one task at a time, wherever
batch norm uses the batch's statistics: in ``train()`` mode, or without running statistics. Where it uses running
statistics, in ``eval()`` mode, the module runs as it is written. Either way the results are those of PyTorch. So are
the updates of running statistics: as in learn2learn, clones share them with the model and update them in ``train()``
mode. Calls of ``learner.module`` itself, or of a part of it, run as written. ``maml.fusion`` lists what was fused in
the last call, what was not, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, many, nn_module, number, optional, takes, tensor, tensor_or
from maml_fast.compat.learn2learn._fused_calls import FusedCalls
from maml_fast.compat.learn2learn.utils import clone_module, clone_parameters, update_module
from maml_fast.fusion import FusionReport
from maml_fast.maml._inner_rates import check_broadcasts

__all__ = ["MAML", "BaseLearner", "MetaSGD", "maml_update"]

RATE = tensor_or(number())

M = TypeVar("M", bound=nn.Module)
L = TypeVar("L", bound="BaseLearner")


class BaseLearner(nn.Module):
    """A wrapper that is called like its ``module`` and has the module's attributes."""

    @takes(module=nn_module)
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._fused_calls: FusedCalls | None = None  # made on first use, and shared by all clones

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module returns for these arguments."""
        return self._fused()(self.module, *args, **kwargs)

    @property
    def fusion(self) -> FusionReport:
        """What ran on the fused operation in the last call of this learner or any clone, what did not, and why."""
        return self._fused().report

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fused_calls": None}

    def _fused(self) -> FusedCalls:
        if self._fused_calls is None:
            self._fused_calls = FusedCalls(self.module)
        return self._fused_calls

    def _sharing_fusion(self, clone: L) -> L:
        clone._fused_calls = self._fused()
        return clone


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
        self.allow_unused = _default(allow_unused, allow_nograd)
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
        clone = MAML(
            clone_module(self.module),
            lr=self.lr,
            first_order=_default(first_order, self.first_order),
            allow_unused=_default(allow_unused, self.allow_unused),
            allow_nograd=_default(allow_nograd, self.allow_nograd),
        )
        return self._sharing_fusion(clone)

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
        gradients = _gradients(
            loss,
            self.module,
            first_order=_default(first_order, self.first_order),
            allow_unused=_default(allow_unused, self.allow_unused),
            allow_nograd=_default(allow_nograd, self.allow_nograd),
        )
        maml_update(self.module, self.lr, gradients)


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
        clone = MetaSGD(clone_module(self.module), first_order=self.first_order, lrs=clone_parameters(self.lrs))
        return self._sharing_fusion(clone)

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
        gradients = _gradients(loss, self.module, first_order=_default(first_order, self.first_order))
        updates = [None if g is None else -rate * g for rate, g in zip(self.lrs, gradients, strict=True)]
        update_module(self.module, updates)


@takes(model=nn_module, lr=RATE, grads=many(optional(tensor)))
def maml_update(model: M, lr: float | Tensor, grads: Sequence[Tensor | None]) -> M:
    """Replace every parameter p of a cloned module by p - lr * g, differentiably; return the module.

    Args:
        model: the cloned module, changed in place.
        lr: the learning rate, a number or a tensor.
        grads: one gradient g for each of ``model.parameters()``; ``None`` leaves the parameter unchanged.

    Raises:
        TypeError: if a gradient is not a tensor.
        ValueError: if the number of gradients is not that of the parameters, or a gradient has the wrong shape.
    """
    if isinstance(lr, Tensor) and lr.dim() > 0:
        check_broadcasts(lr, dict(model.named_parameters()), "lr")
    return update_module(model, [None if g is None else -lr * g for g in grads])


def _gradients(
    loss: Tensor, module: nn.Module, *, first_order: bool, allow_unused: bool = False, allow_nograd: bool = False
) -> list[Tensor | None]:
    """Return the gradient of every parameter, in the module's order; ``None`` for parameters without one."""
    if loss.numel() != 1:
        raise ValueError(f"loss must be one number, got a tensor of shape {list(loss.shape)}; take its mean")
    names = {parameter: name for name, parameter in module.named_parameters()}
    frozen = [name for parameter, name in names.items() if not parameter.requires_grad]
    if frozen and not allow_nograd:
        raise RuntimeError(
            f"{', '.join(frozen)}: requires_grad is False, so there is no gradient to adapt by; "
            "MAML(allow_nograd=True) leaves such parameters as they are"
        )
    if not loss.requires_grad:
        raise RuntimeError("the loss has no graph to differentiate: was it computed under no_grad, or detached?")
    differentiable = [parameter for parameter in names if parameter.requires_grad]
    found = torch.autograd.grad(loss, differentiable, create_graph=not first_order, allow_unused=True)
    gradients = dict(zip(differentiable, found, strict=True))
    unused = [names[parameter] for parameter, gradient in gradients.items() if gradient is None]
    if unused and not allow_unused:
        raise RuntimeError(
            f"the loss does not depend on {', '.join(unused)}: was it computed by this very clone? "
            "MAML(allow_unused=True) leaves unused parameters as they are"
        )
    return [gradients.get(parameter) for parameter in names]


def _default(value: bool | None, default: bool) -> bool:
    return default if value is None else value

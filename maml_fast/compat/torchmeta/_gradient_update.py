"""One inner step on the parameters of a MetaModule."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from maml_fast._arguments import flag, instance, number, takes, tensor
from maml_fast.compat.torchmeta._meta_module import MetaModule
from maml_fast.inner_loop._rates import check_broadcasts

__all__ = ["gradient_update_parameters"]


@takes(model=instance(MetaModule, "make it of the layers of compat.torchmeta.modules"), loss=tensor, first_order=flag)
def gradient_update_parameters(
    model: MetaModule,
    loss: Tensor,
    params: Mapping[str, Tensor] | None = None,
    step_size: float | Tensor | Mapping[str, float | Tensor] = 0.5,
    first_order: bool = False,
) -> OrderedDict[str, Tensor]:
    """Take one step of gradient descent, ``p - step_size * dloss/dp``.

    Args:
        model: the model that computed the loss.
        loss: a scalar.
        params: the parameters that the model ran with, by name; those of ``model.meta_named_parameters()`` if None.
        step_size: the learning rate: a number, a tensor, or one of these for each parameter by name.
        first_order: whether to treat the gradient as a constant (FOMAML).

    Returns:
        The parameters after the step, by name, as differentiable functions of those before it.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``loss`` is not a scalar, or ``step_size`` lacks a parameter or does not fit its shape.
        RuntimeError: ``loss`` does not depend on a parameter.

    Source: Finn et al. 2017, eq. 1.
    """
    if loss.numel() != 1:
        raise ValueError(f"loss must be one number, got a tensor of shape {list(loss.shape)}; take its mean")
    params = OrderedDict(model.meta_named_parameters()) if params is None else params
    if not isinstance(params, Mapping):
        raise TypeError(f"params must map names to tensors, got {type(params).__name__}")
    sizes = step_size if isinstance(step_size, Mapping) else dict.fromkeys(params, _checked(step_size, params))
    if missing := [name for name in params if name not in sizes]:
        raise ValueError(f"step_size has no value for {', '.join(missing)}")
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=not first_order)
    steps = zip(params.items(), gradients, strict=True)
    return OrderedDict((name, parameter - sizes[name] * gradient) for (name, parameter), gradient in steps)


def _checked(step_size: float | Tensor, params: Mapping[str, Tensor]) -> float | Tensor:
    if not isinstance(step_size, Tensor):
        return number()("step_size", step_size)
    check_broadcasts(step_size, params, "step_size")
    return step_size

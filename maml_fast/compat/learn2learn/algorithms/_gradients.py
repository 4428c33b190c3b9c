"""The gradient of a task's loss, with clear errors for parameters that have none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["default", "gradients_of"]


def gradients_of(
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


def default(value: bool | None, default: bool) -> bool:
    return default if value is None else value

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
    parameters = list(module.parameters())
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    if len(learned) < len(parameters) and not allow_nograd:
        raise RuntimeError(
            f"{_names(module, [not p.requires_grad for p in parameters])}: requires_grad is False, so there is no "
            "gradient to adapt by; MAML(allow_nograd=True) leaves such parameters as they are"
        )
    if not loss.requires_grad:
        raise RuntimeError("the loss has no graph to differentiate: was it computed under no_grad, or detached?")
    found = torch.autograd.grad(loss, learned, create_graph=not first_order, allow_unused=True)
    of_learned = iter(found)
    gradients = [next(of_learned) if parameter.requires_grad else None for parameter in parameters]
    if not allow_unused and any(gradient is None for gradient in found):
        unused = [p.requires_grad and gradient is None for p, gradient in zip(parameters, gradients, strict=True)]
        raise RuntimeError(
            f"the loss does not depend on {_names(module, unused)}: was it computed by this very clone? "
            "MAML(allow_unused=True) leaves unused parameters as they are"
        )
    return gradients


def _names(module: nn.Module, chosen: list[bool]) -> str:
    return ", ".join(name for (name, _), it in zip(module.named_parameters(), chosen, strict=True) if it)


def default(value: bool | None, default: bool) -> bool:
    """Return ``value``, or the default for ``None``."""
    return default if value is None else value

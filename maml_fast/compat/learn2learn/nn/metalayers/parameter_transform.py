"""A module that computes with transformed parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from maml_fast._arguments import nn_module, takes

__all__ = ["ParameterTransform"]


class ParameterTransform(nn.Module):
    """Calls a layer with its parameters transformed; the layer keeps its own.

    Args:
        module: a layer that holds its parameters itself, such as ``nn.Linear``.
        transform: called with each parameter; returns the module that transforms it.
    """

    @takes(module=nn_module)
    def __init__(self, module: nn.Module, transform: Callable[[Tensor], nn.Module]) -> None:
        super().__init__()
        self.module = module
        self.transform = transform
        self.parameter_transforms = nn.ModuleDict(
            {name: transform(parameter) for name, parameter in module.named_parameters()}
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer with its transformed parameters."""
        held = self.module._parameters
        own = dict(held)
        try:
            held.update({name: transform(own[name]) for name, transform in self.parameter_transforms.items()})
            return self.module(*args, **kwargs)
        finally:
            held.update(own)

    def meta_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the transforms."""
        return self.parameter_transforms.parameters()

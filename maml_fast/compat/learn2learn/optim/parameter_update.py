"""Gradients that go through transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from maml_fast._arguments import flag, function, many, shown, takes, tensor

__all__ = ["ParameterUpdate"]


class ParameterUpdate(nn.Module):
    """Computes the updates of parameters, as ``torch.autograd.grad`` does their gradients.

    Args:
        parameters: the parameters that will be updated.
        transform: called with each parameter; returns the module that makes an update of the parameter's gradient, or
            ``None`` to take the gradient itself. A class of modules will do.

    Attributes:
        transforms_modules: the modules that ``transform`` returned.
        transforms_indices: for each parameter the number of its module, or ``None``.

    Raises:
        ValueError: if ``transform`` returns something else.
    """

    @takes(parameters=many(tensor))
    def __init__(self, parameters: Iterable[Tensor], transform: Callable[[Tensor], nn.Module | None]) -> None:
        super().__init__()
        if not callable(transform):
            function("a function or class")("transform", transform)
        modules: list[nn.Module] = []
        self.transforms_indices: list[int | None] = []
        for parameter in parameters:
            made = transform(parameter)
            if made is not None and not isinstance(made, nn.Module):
                raise ValueError(f"transform must return an nn.Module or None, got {shown(made)}")
            self.transforms_indices.append(None if made is None else len(modules))
            modules += [] if made is None else [made]
        self.transforms_modules = nn.ModuleList(modules)

    @takes(
        loss=tensor,
        parameters=many(tensor),
        create_graph=flag,
        retain_graph=flag,
        allow_unused=flag,
        allow_nograd=flag,
    )
    def forward(
        self,
        loss: Tensor,
        parameters: Iterable[Tensor],
        create_graph: bool = False,
        retain_graph: bool = False,
        allow_unused: bool = False,
        allow_nograd: bool = False,
    ) -> list[Tensor | None]:
        """Return one update for each parameter.

        Args:
            loss: a scalar.
            parameters: as many parameters as this object was made for, in the same order.
            create_graph, retain_graph, allow_unused: as for ``torch.autograd.grad``.
            allow_nograd: whether parameters may not require gradients; their update is ``None``.

        Raises:
            RuntimeError: if the loss does not depend on a parameter, or a parameter does not require gradients, unless
                that is allowed.
        """
        held = list(parameters)
        asked = [parameter for parameter in held if parameter.requires_grad] if allow_nograd else held
        found = torch.autograd.grad(
            loss, asked, create_graph=create_graph, retain_graph=retain_graph or create_graph, allow_unused=allow_unused
        )
        gradients = dict(zip(asked, found, strict=True))
        return [
            self._update(index, gradients.get(parameter))
            for index, parameter in zip(self.transforms_indices, held, strict=True)
        ]

    def _update(self, index: int | None, gradient: Tensor | None) -> Tensor | None:
        if index is None or gradient is None:
            return gradient
        update: Tensor = self.transforms_modules[index](gradient)
        return update

"""Small layers, and freezing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from maml_fast._arguments import function, nn_module, number, takes

__all__ = ["Flatten", "Lambda", "Scale", "freeze", "unfreeze"]

M = TypeVar("M", bound=nn.Module)


class Lambda(nn.Module):
    """A function as a layer.

    Args:
        lmb: the function, called with what the layer is called with.
    """

    @takes(lmb=function())
    def __init__(self, lmb: Callable[..., Any]) -> None:
        super().__init__()
        self.lmb = lmb

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns."""
        return self.lmb(*args, **kwargs)


class Flatten(nn.Module):
    """Flattens x [B, ...] to [B, N]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x as [B, N]."""
        return x.reshape(x.size(0), -1)


class Scale(nn.Module):
    """Multiplies by a learned tensor, ``alpha``.

    Args:
        shape: the shape of ``alpha``, or its length; ``None`` is [1].
        alpha: the initial value of all elements.
    """

    @takes(alpha=number())
    def __init__(self, shape: int | Sequence[int] | None = None, alpha: float = 1.0) -> None:
        super().__init__()
        sizes = (1,) if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        self.alpha = nn.Parameter(torch.ones(sizes) * alpha)

    def forward(self, x: Tensor) -> Tensor:
        """Return x * alpha."""
        return x * self.alpha


@takes(module=nn_module)
def freeze(module: M) -> M:
    """Set ``requires_grad`` of all parameters to False, in place; return the module."""
    for parameter in module.parameters():
        parameter.detach_().requires_grad_(False)
    return module


@takes(module=nn_module)
def unfreeze(module: M) -> M:
    """Set ``requires_grad`` of all parameters to True, in place; return the module."""
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module

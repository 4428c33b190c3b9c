"""Any module as a transform of flattened gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

__all__ = ["ModuleTransform", "ReshapedTransform"]


class ReshapedTransform(nn.Module):
    """Calls a module with gradients in another shape, and gives its result the shape of the gradient.

    Args:
        transform: the module.
        shape: the shape that the module takes, one entry of which may be -1.
    """

    def __init__(self, transform: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.transform = transform
        self.in_shape = shape

    def forward(self, grad: Tensor) -> Tensor:
        """Return the update of a gradient, of the same shape."""
        update: Tensor = self.transform(grad.reshape(tuple(self.in_shape)))
        return update.reshape(grad.shape)


class ModuleTransform:
    """Makes a module of all elements of a gradient: ``module_cls(n, n)`` for a parameter of n elements.

    Args:
        module_cls: a class such as ``nn.Linear``. For large parameters, see :class:`KroneckerTransform`.
    """

    def __init__(self, module_cls: Callable[[int, int], nn.Module]) -> None:
        self.module_cls = module_cls

    def __call__(self, parameter: Tensor) -> ReshapedTransform:
        """Return the transform of a parameter's gradients."""
        n = parameter.numel()
        return ReshapedTransform(self.module_cls(n, n), (1, n))

"""A module whose layers of certain classes are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from maml_fast._arguments import flag, nn_module, takes

__all__ = ["MetaModule"]


class MetaModule(nn.Module):
    """A module in which every layer of certain classes is replaced by what a function makes of it.

    Args:
        module: the module; its layers are replaced in place.
        substitutions: for a class of layers, the function that is called with a layer and returns its replacement.
        freeze_module: whether the parameters that the module had do not require gradients.

    Attributes:
        wrapped_module: the module with the replacements.
    """

    @takes(module=nn_module, freeze_module=flag)
    def __init__(
        self,
        module: nn.Module,
        substitutions: Mapping[type[nn.Module], Callable[[Any], nn.Module]],
        freeze_module: bool = True,
    ) -> None:
        super().__init__()
        self.substitutions = substitutions
        self.freeze_module = freeze_module
        self.wrapped_module = self._wrapped(module)

    def _wrapped(self, module: nn.Module) -> nn.Module:
        substitute = self.substitutions.get(type(module))
        wrapped = module if substitute is None else substitute(module)
        for name, child in module.named_children():
            wrapped._modules[name] = self._wrapped(child)
        if self.freeze_module:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        return wrapped

    def module(self) -> nn.Module:
        """Return the module, with its own layers wherever a replacement has them as ``.module``."""
        return _unwrapped(self.wrapped_module)

    def meta_parameters(self, module: nn.Module | None = None) -> Iterator[nn.Parameter]:
        """Yield the ``meta_parameters()`` of all layers that have some."""
        module = self.wrapped_module if module is None else module
        if hasattr(module, "meta_parameters"):
            yield from module.meta_parameters()  # type: ignore[operator]
        for child in module.children():
            yield from self.meta_parameters(child)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with the replacements."""
        return self.wrapped_module(*args, **kwargs)


def _unwrapped(module: nn.Module) -> nn.Module:
    inner = getattr(module, "module", None)
    base = inner if isinstance(inner, nn.Module) else module
    for name, child in base.named_children():
        base._modules[name] = _unwrapped(child)
    return base

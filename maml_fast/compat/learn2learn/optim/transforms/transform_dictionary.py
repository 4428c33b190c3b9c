"""Different transforms for different parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from maml_fast._arguments import shown

__all__ = ["TransformDictionary"]


class TransformDictionary:
    """Chooses the transform of a parameter by the parameter, or by the module that holds it.

    Args:
        dictionary: transforms by parameter or by module; all others are without a transform.

    Raises:
        ValueError: if a key is neither.
    """

    def __init__(self, dictionary: Mapping[nn.Module | nn.Parameter, Callable[..., Any]]) -> None:
        self.param_to_transform: dict[Tensor, Callable[..., Any]] = {}
        for key, transform in dictionary.items():
            if not isinstance(key, nn.Module | nn.Parameter):
                raise ValueError(f"the keys must be modules or parameters, got {shown(key)}")
            held = key.parameters() if isinstance(key, nn.Module) else [key]
            self.param_to_transform.update(dict.fromkeys(held, transform))

    def __call__(self, param: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the transform of a parameter's gradients, or ``None``."""
        transform = self.param_to_transform.get(param)
        return None if transform is None else transform(param, *args, **kwargs)

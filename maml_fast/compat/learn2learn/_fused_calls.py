"""Run clones of a module by its recordings, as long as they match the module that was recorded."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from torch import nn

from maml_fast.compat.learn2learn.utils import copy_of_modules
from maml_fast.fusion import FusedModel, FusionReport, Runner

__all__ = ["FusedCalls"]

# Attributes that every clone has of its own and no recording holds. The last two belong to recurrent layers, which
# update them themselves.
_LIVE = ("training", "_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FusedCalls:
    """Calls a clone of ``module`` with each sequence conv-BN-ReLU-pool as one fused operation.

    Everything else is as in PyTorch, including running statistics and training modes. All clones share the recordings.
    A clone whose submodules, attributes or hooks differ from those of ``module`` at construction runs as it is written,
    after one warning.
    """

    def __init__(self, module: nn.Module) -> None:
        if any(isinstance(part, FusedModel) for part in module.modules()):
            raise ValueError("the model holds a FusedModel; put its .original in its place: clones are fused anyway")
        self._runner = Runner(copy_of_modules(module), "as_written")
        self._parts = [_part(each) for each in module.modules()]
        self._warned = False

    @property
    def report(self) -> FusionReport:
        """What was fused in the last call of any clone, what was not, and why."""
        return self._runner.report

    def __call__(self, clone: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return ``clone(*args, **kwargs)``."""
        if self._still_fits(clone):
            return self._runner(clone, args, kwargs)
        self._runner.report = FusionReport(
            "as_written", left=("forward: the module was changed after its first clone()",)
        )
        return clone(*args, **kwargs)

    def _still_fits(self, clone: nn.Module) -> bool:
        parts = list(clone.modules())
        same = len(parts) == len(self._parts) and all(map(_is_like, parts, self._parts))
        if not same and not self._warned:
            self._warned = True
            warnings.warn(
                "the module was changed after its first clone() and runs unfused now; wrap it anew to fuse it again",
                RuntimeWarning,
                stacklevel=6,
            )
        return same


class _Part(NamedTuple):
    """What a module was made of when it was recorded."""

    kind: type[nn.Module]
    n_attributes: int
    children: list[str]
    attributes: dict[str, Any]
    hooks: list[bool]


def _part(module: nn.Module) -> _Part:
    attributes = {name: value for name, value in vars(module).items() if name not in _LIVE}
    return _Part(type(module), len(vars(module)), list(module._modules), attributes, _hooks(module))


def _hooks(module: nn.Module) -> list[bool]:
    return [bool(getattr(module, name)) for name in _HOOKS]


def _is_like(module: nn.Module, part: _Part) -> bool:
    """Return whether a module still matches ``part``, with its attributes being the same objects."""
    now = vars(module)
    return (
        type(module) is part.kind
        and len(now) == part.n_attributes
        and all(now.get(name, part) is value for name, value in part.attributes.items())
        and list(module._modules) == part.children
        and _hooks(module) == part.hooks
    )

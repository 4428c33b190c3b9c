"""Run a module and its clones by common recordings, as long as they match the module that was recorded."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from maml_fast.compat.learn2learn._copies import copy_of_modules, replace_tensors
from maml_fast.fusion import FusedModel, FusionReport, Runner

__all__ = ["FusedCalls", "fused_calls_of", "renew", "share_recordings"]

_SHARED = "_maml_fast_recordings"  # an attribute of the module, which its clones and deep copies have too

# Attributes that every clone has of its own and no recording holds. Two of them belong to recurrent layers, which
# update them themselves.
_LIVE = ("training", "_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs", _SHARED)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
MAX_KINDS = 64

_SCALARS = (int, float, str)
_CONTAINERS = (list, tuple, dict, set)


class FusedCalls:
    """Calls a clone of ``module`` with each sequence conv-BN-ReLU-pool as one fused operation.

    Everything else is as in PyTorch, including running statistics and training modes. All clones share the recordings.
    A clone whose submodules, attributes or hooks differ from those of ``module`` at construction runs as it is written,
    after one warning if anything was fused before.

    Attributes:
        has_filters: whether any tensor might be the filters of a convolution; without one, nothing can be fused.
    """

    def __init__(self, module: nn.Module) -> None:
        _check_unfused(module)
        self._runner = Runner(_detached_copy(module), "as_written")
        self._parts = [_part(each) for each in module.modules()]
        self.has_filters = any(each.dim() == 4 for each in (*module.parameters(), *module.buffers()))
        self._unfused: set[Hashable] = set()  # kinds of calls in which nothing was fused
        self._warned = False

    @property
    def report(self) -> FusionReport:
        """What was fused in the last call of any clone, what was not, and why."""
        return self._runner.report

    def fit(self, clone: nn.Module) -> bool:
        """Return whether a clone still matches the module that was recorded."""
        parts = list(clone.modules())
        return len(parts) == len(self._parts) and all(map(_is_like, parts, self._parts))

    def run(self, clone: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return ``clone(*args, **kwargs)`` of a clone that fits."""
        return self._runner(clone, args, kwargs)

    def __call__(self, clone: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Return ``clone(*args, **kwargs)``."""
        if not self.has_filters or (kind := _kind(clone, args)) in self._unfused:  # checks would only cost time
            return clone(*args, **kwargs)
        if self.fit(clone):
            out = self.run(clone, *args, **kwargs)
            if not self.report.fused and len(self._unfused) < MAX_KINDS:
                self._unfused.add(kind)
            return out
        if self.report.fused and not self._warned:
            self._warned = True
            warnings.warn(
                "the module was changed after its first clone() and runs unfused now; wrap it anew to fuse it again",
                RuntimeWarning,
                stacklevel=5,
            )
        self._runner.report = FusionReport(
            "as_written", left=("forward: the module was changed after its first clone()",)
        )
        return clone(*args, **kwargs)


def _kind(module: nn.Module, args: Sequence[Any]) -> Hashable:
    """Return what of a call decides, beside the module itself, whether something can be fused."""
    inputs = tuple((x.shape, x.dtype, x.device) if isinstance(x, Tensor) else type(x) for x in args)
    return inputs, tuple(part.training for part in module.modules())


class _Shared:
    """Holds the recordings of a module, its clones and its deep copies; a pickle is without them."""

    def __init__(self) -> None:
        self.calls: FusedCalls | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self

    def __reduce__(self) -> tuple[type[_Shared], tuple[()]]:
        return _Shared, ()


def share_recordings(module: nn.Module, *, anew: bool = False) -> _Shared:
    """Make a module share its recordings, or new ones, with all copies of it that are made from now on."""
    if anew or _SHARED not in vars(module):
        vars(module)[_SHARED] = _Shared()
    shared: _Shared = vars(module)[_SHARED]
    return shared


def fused_calls_of(module: nn.Module) -> FusedCalls:
    """Return the calls that a module shares with its clones."""
    shared = vars(module).get(_SHARED) or share_recordings(module)
    if shared.calls is None:
        shared.calls = FusedCalls(module)
    calls: FusedCalls = shared.calls
    return calls


def renew(module: nn.Module) -> None:
    """Make new recordings of a module that is wrapped anew, if it no longer matches the old ones; clones keep them."""
    shared = share_recordings(module)
    if shared.calls is None:
        _check_unfused(module)
    elif shared.calls.has_filters and not _is_clone(module) and not shared.calls.fit(module):
        share_recordings(module, anew=True)


def _check_unfused(module: nn.Module) -> None:
    if any(isinstance(part, FusedModel) for part in module.modules()):
        raise ValueError("the model holds a FusedModel; put its .original in its place: clones are fused anyway")


def _is_clone(module: nn.Module) -> bool:
    first = next(module.parameters(), None)
    return first is not None and not first.is_leaf


class _Part(NamedTuple):
    """What a module was made of when it was recorded."""

    kind: type[nn.Module]
    n_attributes: int
    children: list[str]
    attributes: dict[str, Any]
    hooks: list[bool]


def _part(module: nn.Module) -> _Part:
    attributes = {name: value for name, value in vars(module).items() if name not in _LIVE}
    return _Part(type(module), _count(module), list(module._modules), attributes, _hooks(module))


def _count(module: nn.Module) -> int:
    return len(vars(module)) - (_SHARED in vars(module))


def _hooks(module: nn.Module) -> list[bool]:
    return [bool(getattr(module, name)) for name in _HOOKS]


def _is_like(module: nn.Module, part: _Part) -> bool:
    """Return whether a module still matches ``part``, with attributes that are the same objects or plain and equal."""
    now = vars(module)
    return (
        type(module) is part.kind
        and _count(module) == part.n_attributes
        and all(_is_same(now.get(name, part), value) for name, value in part.attributes.items())
        and list(module._modules) == part.children
        and _hooks(module) == part.hooks
    )


def _is_same(now: Any, before: Any) -> bool:
    if now is before:
        return True
    if type(now) is not type(before) or not isinstance(now, (*_SCALARS, *_CONTAINERS)):
        return False
    if isinstance(now, _SCALARS):
        return bool(now == before)
    if isinstance(now, list | tuple):
        return len(now) == len(before) and all(map(_is_same, now, before))
    return not now and not before  # the hooks of a deep copy


def _detached_copy(module: nn.Module) -> nn.Module:
    """Return a copy that holds no graph: the recordings outlive the clone that they were made for."""
    copy, parts = copy_of_modules(module)
    held = (*copy.parameters(), *copy.buffers())
    replace_tensors(parts, {id(each): each.detach().requires_grad_(each.requires_grad) for each in held})
    return copy

"""Choosing parameters by name: those that adapt in the inner loop, those that an inner learning rate is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

__all__ = ["Adapt", "as_attribute", "matching_names", "select_parameters"]

Adapt: TypeAlias = str | Sequence[str] | Callable[[str], bool] | None


def select_parameters(model: nn.Module, adapt: Adapt) -> tuple[str, ...]:
    """Names of the parameters that ``adapt`` chooses, in the model's order; frozen ones are included.

    ``None`` chooses all; ``"head"`` those of the last module that holds parameters (ANIL, Raghu et al. 2020) and
    ``"body"`` all others (BOIL, Oh et al. 2021); a list of names, prefixes (``"features.3"``) and globs (``"*.bias"``)
    those that any entry matches; a function ``name -> bool`` those for which it is true. An entry that matches nothing,
    and a choice without a trainable parameter, are errors.
    """
    parameters = dict(model.named_parameters())
    names = tuple(parameters)
    if adapt is None:
        chosen = names
    elif adapt == "head":
        chosen = _names_of_last_module(model)
    elif adapt == "body":
        head = _names_of_last_module(model)
        chosen = tuple(name for name in names if name not in head)
    elif callable(adapt):
        chosen = tuple(name for name in names if adapt(name))
    else:
        chosen = _names_of_entries([adapt] if isinstance(adapt, str) else adapt, names)
    if not any(parameters[name].requires_grad for name in chosen):
        reason = "all that it chooses are frozen (requires_grad=False)" if chosen else "it chooses no parameter"
        raise ValueError(f"adapt={adapt!r} leaves nothing to adapt: {reason}; the model has {_listing(names)}")
    return chosen


def matching_names(entry: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are ``entry``, lie below it (``entry + "."``), or match it as a glob."""
    return [name for name in names if name == entry or name.startswith(f"{entry}.") or fnmatchcase(name, entry)]


def as_attribute(name: str) -> str:
    """A parameter's name in a state dict of what belongs to it: PyTorch reserves the dot."""
    return name.replace(".", "/")


def _names_of_entries(entries: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    chosen: set[str] = set()
    for entry in entries if isinstance(entries, Iterable) else [entries]:
        if not isinstance(entry, str):
            raise TypeError(f"adapt must be None, 'head', 'body', names or a function of a name, got {entry!r}")
        matches = matching_names(entry, names)
        if not matches:
            raise ValueError(f"adapt names {entry!r}, which matches no parameter; the model has {_listing(names)}")
        chosen.update(matches)
    return tuple(name for name in names if name in chosen)


def _names_of_last_module(model: nn.Module) -> tuple[str, ...]:
    names = {name for name, _ in model.named_parameters()}
    last: tuple[str, ...] = ()
    for prefix, module in model.named_modules():
        own = tuple(f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False))
        last = tuple(name for name in own if name in names) or last
    return last


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "no parameters"

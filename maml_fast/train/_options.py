"""An argument of a run, defined once: its type and default, what it may be, its help, and the group that lists it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from maml_fast._arguments import Kind, choice, optional, shown

__all__ = ["Option", "mapping", "option", "options_of"]

_KEY = "option"  # in a field's metadata


class Option(NamedTuple):
    """How one argument is checked, described and listed.

    Attributes:
        kind: checks a value and returns its plain form.
        help: one line for the command line.
        group: the heading that it is listed under.
        choices: all values, where there are few.
        common: whether ``--help`` lists it; ``--help-all`` lists every option.
    """

    kind: Kind
    help: str
    group: str
    choices: tuple[Any, ...]
    common: bool


def option(default: Any, kind: Kind | tuple[Any, ...], help: str, group: str, common: bool = False) -> Any:
    """Return a dataclass field for an argument.

    ``kind`` is a check or a tuple of choices. An argument whose default is None may be None.
    """
    choices: tuple[Any, ...] = kind if isinstance(kind, tuple) else ()
    check: Kind = choice(*kind) if isinstance(kind, tuple) else kind
    if default is None:
        check = optional(check)
    return dataclasses.field(default=default, metadata={_KEY: Option(check, help, group, choices, common)})


def options_of(config: type[Any]) -> dict[str, Option]:
    """Return the options of a dataclass by the names of their fields."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(config)}


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Check keyword arguments that JSON can hold, from a mapping."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key.isidentifier() for key in value):
        raise TypeError(f"{name} must map names of arguments to values, got {shown(value)}")
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold what JSON can ({error}), got {shown(value)}") from None
    return copied

"""Errors for names of another library that a drop-in replacement does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

__all__ = ["missing", "refuse"]


def refuse(package: str, name: str, reasons: Mapping[str, str]) -> NoReturn:
    """Raise ImportError for a part that a package leaves out on purpose, for one of the reasons."""
    raise ImportError(f"{package} has no {name}: {reasons[name]}", name=f"{package}.{name}")


def missing(package: str, module: str, name: str, public: Sequence[str], reasons: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that a module of the package does not have.

    Raises:
        ImportError: ``reasons`` has the attribute, by its name within the package. ``from ... import`` hides the text
            of an AttributeError.
    """
    whole = f"{module}.{name}".removeprefix(f"{package}.")
    if whole in reasons:
        refuse(package, whole, reasons)
    return AttributeError(f"{module} has no {name!r}, only {', '.join(public)}")

"""Renamed arguments and state-dict keys: runs of earlier versions can still be resumed, evaluated and deployed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["state_with_current_names", "with_current_names", "with_old_names"]

_ARGUMENTS = {"adapt": "adapted", "inner_optimiser": "inner_optimizer"}
_ALGORITHMS = {"learned-optimiser": "learned-optimizer"}
_SUBMODULES = {"inner_optimiser": "inner_optimizer"}  # of a learner


def with_current_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments from ``config.json`` under their current names."""
    return _renamed(arguments, _ARGUMENTS, _ALGORITHMS)


def with_old_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments under their old names, because old checkpoints hold a digest of those."""
    return _renamed(arguments, _inverted(_ARGUMENTS), _inverted(_ALGORITHMS))


def state_with_current_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint whose learner state has the current names."""
    learner = state.get("maml")
    if not isinstance(learner, Mapping):
        return dict(state)
    return {**state, "maml": {_current_name(name): value for name, value in learner.items()}}


def _current_name(name: Any) -> Any:
    module, dot, rest = name.partition(".") if isinstance(name, str) else (name, "", "")
    return f"{_SUBMODULES[module]}{dot}{rest}" if module in _SUBMODULES else name


def _renamed(arguments: Mapping[str, Any], names: Mapping[str, str], algorithms: Mapping[str, str]) -> dict[str, Any]:
    renamed = {names.get(name, name): value for name, value in arguments.items()}
    algorithm = renamed.get("algorithm")
    if isinstance(algorithm, str):
        renamed["algorithm"] = algorithms.get(algorithm, algorithm)
    return renamed


def _inverted(names: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in names.items()}

"""What run folders of earlier versions call otherwise, so that their runs go on, and can be evaluated and deployed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["arguments_as_then", "arguments_of_today", "state_of_today"]

_ARGUMENTS = {"adapt": "adapted", "inner_optimiser": "inner_optimizer"}
_ALGORITHMS = {"learned-optimiser": "learned-optimizer"}
_PARTS = {"inner_optimiser": "inner_optimizer"}  # of a learner


def arguments_of_today(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from ``config.json`` by the names that they have now."""
    return _renamed(arguments, _ARGUMENTS, _ALGORITHMS)


def arguments_as_then(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names that they had: checkpoints hold a digest of those."""
    return _renamed(arguments, _turned(_ARGUMENTS), _turned(_ALGORITHMS))


def state_of_today(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint whose learner's state has the names of today."""
    learner = state.get("maml")
    if not isinstance(learner, Mapping):
        return dict(state)
    return {**state, "maml": {_name_of_today(name): value for name, value in learner.items()}}


def _name_of_today(name: Any) -> Any:
    part, dot, rest = name.partition(".") if isinstance(name, str) else (name, "", "")
    return f"{_PARTS[part]}{dot}{rest}" if part in _PARTS else name


def _renamed(arguments: Mapping[str, Any], names: Mapping[str, str], algorithms: Mapping[str, str]) -> dict[str, Any]:
    found = {names.get(name, name): value for name, value in arguments.items()}
    algorithm = found.get("algorithm")
    if isinstance(algorithm, str):
        found["algorithm"] = algorithms.get(algorithm, algorithm)
    return found


def _turned(names: Mapping[str, str]) -> dict[str, str]:
    return {now: then for then, now in names.items()}

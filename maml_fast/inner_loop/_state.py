"""State that is carried between inner steps: weights, optimizers, buffers and random number generators."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maml_fast.inner_loop._optimizers import InnerOptimizer
from maml_fast.inner_loop._values import FastWeights

__all__ = ["State", "get_randomness", "map_state", "set_randomness"]


class State(NamedTuple):
    """State of a :class:`maml_fast.inner_loop._walk.Walk` before an inner step, without a graph."""

    fast: FastWeights
    optimizer: InnerOptimizer
    done: int
    buffers: Mapping[str, Tensor | None]
    randomness: list[Tensor]


def map_state(it: Any, function: Callable[[Tensor], Tensor], known: dict[int, Any]) -> Any:
    """Return a copy of ``it`` with ``function`` applied to every tensor in its attributes and containers.

    Containers are lists, tuples and dictionaries. ``known`` maps the ids of objects that are not copied to these
    objects. An object that occurs several times is copied once.
    """
    if id(it) in known:
        return known[id(it)]
    result: Any = it
    if isinstance(it, Tensor):
        result = function(it)
    elif isinstance(it, dict):
        result = {name: map_state(each, function, known) for name, each in it.items()}
    elif isinstance(it, (list, tuple)):
        items = [map_state(each, function, known) for each in it]
        result = type(it)(*items) if hasattr(it, "_fields") else type(it)(items)
    elif hasattr(it, "__dict__") and not isinstance(it, (type, nn.Module)) and not callable(it):
        result = copy.copy(it)
        known[id(it)] = result
        vars(result).update({name: map_state(each, function, known) for name, each in vars(it).items()})
    known[id(it)] = result
    return result


def get_randomness(device: torch.device) -> list[Tensor]:
    """Return the states of PyTorch's random number generators that operations on ``device`` use."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_randomness(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])

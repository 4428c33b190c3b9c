"""How the outer step size goes on: a function of the iteration, so that a resumed run needs no memory of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from maml_fast.train._config import TrainConfig

__all__ = ["SCHEDULES", "Schedule", "meta_lr_at"]

HALVED_EVERY = 2000  # iterations


class Schedule(NamedTuple):
    """The outer step size's share of the way from its least, ``factor(iteration, iterations)``.

    ``to_the_end``: it depends on how long the run is.
    """

    factor: Callable[[int, int], float]
    to_the_end: bool = False


SCHEDULES: Mapping[str, Schedule] = {
    "constant": Schedule(lambda _, __: 1.0),
    "linear": Schedule(lambda done, all_: 1 - done / all_, to_the_end=True),  # to 0: Reptile
    "cosine": Schedule(lambda done, all_: (1 + math.cos(math.pi * done / all_)) / 2, to_the_end=True),  # to 0
    "halving": Schedule(lambda done, _: 0.5 ** (done // HALVED_EVERY)),  # prototypical networks
}


def meta_lr_at(iteration: int, config: TrainConfig) -> float:
    """The outer step size of an iteration, counted from 0."""
    factor = SCHEDULES[config.meta_schedule].factor(iteration, config.iterations)
    return config.least_meta_lr + (config.meta_lr - config.least_meta_lr) * factor

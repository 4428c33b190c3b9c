"""Schedules of the outer step size. They are functions of the iteration, so a resumed run needs no state for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from maml_fast.train._config import TrainConfig

__all__ = ["SCHEDULES", "Schedule", "meta_lr_at"]

HALVED_EVERY = 2000  # iterations


class Schedule(NamedTuple):
    """A schedule of the outer step size.

    Attributes:
        factor: ``factor(iteration, iterations)`` goes from 1 (``meta_lr``) towards 0 (``least_meta_lr``).
        depends_on_length: whether ``factor`` depends on ``iterations``, the length of the run.
    """

    factor: Callable[[int, int], float]
    depends_on_length: bool = False


SCHEDULES: Mapping[str, Schedule] = {
    "constant": Schedule(lambda _, __: 1.0),
    "linear": Schedule(lambda i, n: 1 - i / n, depends_on_length=True),  # Reptile
    "cosine": Schedule(lambda i, n: (1 + math.cos(math.pi * i / n)) / 2, depends_on_length=True),
    "halving": Schedule(lambda i, _: 0.5 ** (i // HALVED_EVERY)),  # prototypical networks
}


def meta_lr_at(iteration: int, config: TrainConfig) -> float:
    """Return the outer step size of an iteration, counted from 0."""
    factor = SCHEDULES[config.meta_schedule].factor(iteration, config.iterations)
    return config.least_meta_lr + (config.meta_lr - config.least_meta_lr) * factor

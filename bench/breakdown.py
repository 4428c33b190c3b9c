"""How the time of an iteration divides into convolutions, waiting, and everything else, including Python."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import rounds
import torch

from maml_fast import native

ROUNDS = 9


class Shares(NamedTuple):
    """Shares of all threads' time, from 0 to 1.

    convolutions: in native convolutions. A thin first layer's sweep counts as one, and with it the ReLU and the pooling
        that it does on its way; its statistics do not.
    waiting: threads that have finished their tasks, for the last thread. Waiting for Python is not counted.
    """

    convolutions: float
    waiting: float


def shares(iteration: Callable[[], object]) -> Shares:
    """Return the medians over some iterations."""
    return Shares(*map(median, zip(*(_shares(iteration) for _ in range(ROUNDS)), strict=True)))


def _shares(iteration: Callable[[], object]) -> Shares:
    library = native.library()
    if library is None:
        return Shares(0.0, 0.0)
    library.start_clock()
    seconds = rounds.seconds_of(iteration) * torch.get_num_threads()
    return Shares(*(min(each / seconds, 1.0) for each in library.stop_clock()))

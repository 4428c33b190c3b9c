"""Where the time of an iteration goes: into convolutions, or into all else, of which Python is a part."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import rounds
import torch

from maml_fast import native

ROUNDS = 5


def share_of_convolutions(iteration: Callable[[], object]) -> float:
    """Share of all threads' time that native convolutions take, from 0 to 1; threads that wait take it from the rest.

    A thin first layer's sweep counts as a convolution, and with it the ReLU and the pooling that it does on its way;
    its statistics do not.
    """
    return median(_share(iteration) for _ in range(ROUNDS))


def _share(iteration: Callable[[], object]) -> float:
    library = native.library()
    if library is None:
        return 0.0
    library.start_convolution_clock()
    seconds = rounds.seconds_of(iteration)
    return min(library.stop_convolution_clock() / (seconds * torch.get_num_threads()), 1.0)

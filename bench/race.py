"""maml_fast and the plain loop in one process, an iteration of each in turn, so that other work slows both alike."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import parity
import torch
from peers import OURS, TRUTH
from place import Place
from rounds import seconds_of, within
from workloads import named

LINES = ("forward: ", "inner loop: ")  # of MAML.describe() that say which engine ran, and why


class Race:
    """Both learners on one meta-batch, at the place that all benchmarks have."""

    def __init__(self, workload: str, place: Place) -> None:
        place.keep_to()
        self._precision = place.precision
        self._workload = replace(named(workload), device=place.device)
        self._episodes = self._workload.episodes()
        start = self._workload.start(torch.float32)
        self._learners = [peer(self._workload, start) for peer in (OURS, TRUTH)]

    def parity(self) -> dict[str, float]:
        """Errors of the loop against maml_fast; see :func:`parity.check`."""
        return parity.check(self._workload.for_parity(), TRUTH, precision=self._precision)._asdict()

    def times(self, seconds: float) -> tuple[list[float], list[float]]:
        """Return the seconds of equally many iterations of maml_fast and of the loop; takes about ``seconds``."""
        rounds = within(seconds, sum(self._turn()))
        ours, loops = zip(*(self._turn() for _ in range(rounds)), strict=True)
        return list(ours), list(loops)

    def engine(self) -> str:
        """Return the engine of maml_fast's last iteration, and the reason."""
        lines = self._learners[0].learner.describe().splitlines()
        return "; ".join(line for line in lines if line.startswith(LINES))

    def close(self) -> None:
        """Nothing to end: there are no other processes."""

    def _turn(self) -> list[float]:
        return [seconds_of(partial(learner.iteration, self._episodes)) for learner in self._learners]

"""A peer on a workload, as it runs in a process of its own: what is asked of it there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import breakdown
import memory
import parity
import torch
from peers import OURS, TRUTH
from peers import named as peer_named
from rounds import repeat
from workloads import named as workload_named


class Contestant:
    """The learner, its meta-batch, and as many threads as the benchmarks have. ``options`` are the learner's own.

    ``tasks`` are the meta-batch's, in place of the workload's own.
    """

    def __init__(
        self, workload: str, peer: str, threads: int, options: dict[str, Any] | None = None, tasks: int | None = None
    ) -> None:
        torch.set_num_threads(threads)
        self._workload, self._peer = workload_named(workload), peer_named(peer)
        if tasks is not None:
            self._workload = replace(self._workload, meta_batch_size=tasks)
        self._episodes = self._workload.episodes()
        self._before = memory.held()
        self._learner = self._peer(self._workload, self._workload.start(torch.float32), **(options or {}))

    def peak_mib(self) -> float | None:
        """MiB that training adds at its peak, from the second iteration on."""
        self.iterate()
        memory.forget_peak(self._learner.workers)
        self.iterate()
        return memory.added_mib(self._before, self._learner.workers)

    def parity(self) -> dict[str, float]:
        """Errors against maml_fast, or of maml_fast against the truth; see :func:`parity.check`."""
        return parity.check(self._workload, TRUTH if self._peer is OURS else self._peer)._asdict()

    def times(self, seconds: float) -> list[float]:
        """Seconds of iterations, for so long about."""
        return repeat(self.iterate, seconds)

    def iterate(self) -> None:
        """One meta-training iteration."""
        self._learner.iteration(self._episodes)

    def shares(self) -> dict[str, float]:
        """Of all threads' time in an iteration; see :class:`breakdown.Shares`."""
        return breakdown.shares(self.iterate)._asdict()

    def close(self) -> None:
        """Give back what the learner holds."""
        self._learner.close()

"""A peer with its workload, as the benchmarks run it in a process of its own."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import breakdown
import gpu_kernels
import memory
import parity
import torch
from peers import OURS, TRUTH
from peers import named as peer_named
from place import Place
from rounds import repeat
from workloads import named as workload_named


class Contestant:
    """A learner and its meta-batch, at the place of all benchmarks. ``options`` are the learner's own.

    ``tasks`` are the meta-batch's, in place of the workload's own.
    """

    def __init__(
        self, workload: str, peer: str, place: Place, options: dict[str, Any] | None = None, tasks: int | None = None
    ) -> None:
        place.keep_to()
        self._place, self._peer = place, peer_named(peer)
        self._workload = replace(workload_named(workload), device=place.device)
        self._options = options or {}
        self._begin(tasks or self._workload.meta_batch_size)

    def _begin(self, tasks: int) -> None:
        if tasks != self._workload.meta_batch_size:
            self._workload = replace(self._workload, meta_batch_size=tasks)
        self._episodes = self._workload.episodes()
        self._meter = memory.meter(self._place.device)
        self._learner = self._peer(self._workload, self._workload.start(torch.float32), **self._options)

    def begin_anew(self, tasks: int) -> None:
        """Start again with this many tasks, after freeing the learner's memory."""
        self.close()
        del self._learner, self._episodes
        gc.collect()
        if self._place.device == "cuda":
            torch.cuda.empty_cache()
        self._begin(tasks)

    def peak_mib(self) -> float | None:
        """Return the MiB that training adds at its peak, from the second iteration on; None where this is unknown.

        A CUDA graph takes its memory when it is captured: that is among them.
        """
        self.iterate()
        self._meter.forget_peak(self._learner.workers)
        self._learner.settle()
        self.iterate()
        if self._place.device == "cuda" and not self._learner.torch_allocates:
            return None
        return self._meter.added_mib(self._learner.workers)

    def process_mib(self) -> float | None:
        """Return the MiB that the process held at that peak, including the interpreter and PyTorch."""
        return self._meter.peak_mib(self._learner.workers)

    def parity(self, truth: str = TRUTH.name, in_float32: bool = True) -> dict[str, float | None]:
        """Errors against maml_fast, or of maml_fast against the peer of this name; see :func:`parity.check`."""
        other = peer_named(truth) if self._peer is OURS else self._peer
        precision = self._place.precision if in_float32 else None
        return parity.check(self._workload.for_parity(), other, precision=precision)._asdict()

    def times(self, seconds: float) -> list[float]:
        """Return the seconds of each iteration, measured for about ``seconds``."""
        self._learner.settle()
        return repeat(self.iterate, seconds)

    def iterate(self) -> None:
        """One meta-training iteration."""
        self._learner.iteration(self._episodes)

    def shares(self) -> dict[str, float]:
        """Of all threads' time in an iteration; see :class:`breakdown.Shares`."""
        return breakdown.shares(self.iterate)._asdict()

    def kernels(self) -> dict[str, float]:
        """Of an iteration on a GPU; see :class:`gpu_kernels.KernelTimes`."""
        gpu_kernels.wake_profiler()
        self.begin_anew(self._workload.meta_batch_size)
        self._learner.settle()
        return gpu_kernels.measure(self.iterate)._asdict()

    def ran(self) -> str:
        """What maml_fast ran on; see :meth:`peers.ours.Ours.ran`."""
        return self._learner.ran()

    def close(self) -> None:
        """Free what the learner holds."""
        self._learner.close()

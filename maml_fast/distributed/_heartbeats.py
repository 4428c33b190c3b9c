"""Heartbeats of the processes in a group, and the reasons why processes left it.

A collective that fails says that a connection broke, but not whose. An error that ends one process also makes the
collectives of the others fail. To find the cause, the processes write heartbeats and exit reasons to their store.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from maml_fast.distributed._errors import PeerFailedError, PeerLostError, PeerStopped

__all__ = ["ExitReason", "Heartbeats", "exit_reason_of"]

HEARTBEAT_INTERVAL = 1.0  # seconds
HEARTBEAT_TIMEOUT = 8.0  # seconds without a heartbeat, after which a process counts as dead
POLL_INTERVAL = 0.1  # seconds between two reads of the store


class ExitReason(NamedTuple):
    """Why a process left.

    Attributes:
        why: ``"done"``, ``"stopped"`` by a signal, ``"failed"`` with an error, or ``"another"`` if a peer left first.
        text: the error.
        signal_number: the signal.
    """

    why: str
    text: str = ""
    signal_number: int = 0


def exit_reason_of(error: BaseException) -> ExitReason:
    """Return the exit reason of a process that ends with ``error``."""
    if isinstance(error, PeerLostError | PeerFailedError | PeerStopped):
        return ExitReason("another")
    if isinstance(error, KeyboardInterrupt):
        return ExitReason("stopped", signal_number=getattr(error, "signal_number", 2))
    return ExitReason("failed", f"{type(error).__name__}: {error}")


class Heartbeats:
    """Writes the heartbeats and the exit reason of this process to a store, and reads those of the others.

    Args:
        store: a ``torch.distributed`` store that nothing else in this process uses.
        rank: rank of this process.
        places: where each process runs, by rank, for error messages.
    """

    def __init__(self, store: Any, rank: int, places: Sequence[str]) -> None:
        self._store, self._rank, self._places = store, rank, places
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def stop(self, reason: ExitReason | None = None) -> None:
        """Write why this process leaves (``None``: it is done) and stop its heartbeat."""
        with contextlib.suppress(Exception):  # the process that hosts the store may have left first
            self._store.set(f"exit {self._rank}", json.dumps(reason or ExitReason("done")))
        self._ended.set()
        self._thread.join(HEARTBEAT_INTERVAL)  # with a timeout: the thread may hang on a store that is gone

    def check_alive(self) -> dict[int, ExitReason]:
        """Return the exit reasons of the processes that left, by rank.

        Returns as soon as every other process has left or sent a heartbeat. It takes ``HEARTBEAT_TIMEOUT`` seconds to
        find that one is dead.

        Raises:
            PeerLostError: a process died without writing an exit reason, or the store does not answer.
        """
        try:
            left, silent = self._poll()
        except Exception as error:  # each kind of store raises its own types
            raise PeerLostError(
                f"rank 0 ({self._places[0]}), whose machine hosts the store, does not answer"
            ) from error
        if silent:
            names = " and ".join(f"rank {rank} ({self._places[rank]})" for rank in silent)
            raise PeerLostError(f"{names} died, or does not answer; resume from the last checkpoint with --resume")
        return left

    def check(self) -> None:
        """Raise if a process has left: first for dead processes, then for failed, then for stopped ones."""
        left = self.check_alive()
        for rank, reason in left.items():
            if reason.why == "failed":
                raise PeerFailedError(f"rank {rank} ({self._places[rank]}) failed: {reason.text}")
        for rank, reason in left.items():
            if reason.why == "stopped":
                raise PeerStopped(f"rank {rank} was stopped by signal {reason.signal_number}", reason.signal_number)

    def _poll(self) -> tuple[dict[int, ExitReason], list[int]]:
        """Return the exit reasons of the processes that left, and the ranks with neither exit reason nor heartbeat."""
        unknown = {rank: self._count(rank) for rank in range(len(self._places)) if rank != self._rank}
        left: dict[int, ExitReason] = {}
        deadline = time.monotonic() + HEARTBEAT_TIMEOUT
        while unknown and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
            for rank, before in list(unknown.items()):
                if self._store.check([f"exit {rank}"]):
                    left[rank] = ExitReason(*json.loads(self._store.get(f"exit {rank}")))
                elif self._count(rank) == before:
                    continue
                del unknown[rank]
        return left, sorted(unknown)

    def _count(self, rank: int) -> int:
        return self._store.add(f"heartbeat {rank}", 0)

    def _beat(self) -> None:
        with contextlib.suppress(Exception):  # the store is gone: nobody is left to report to
            while not self._ended.wait(HEARTBEAT_INTERVAL):
                self._store.add(f"heartbeat {self._rank}", 1)

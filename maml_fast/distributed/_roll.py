"""Who is there: each process's pulse, and the last words of those that left.

A collective that fails says that a connection broke, not whose; and what ends one process makes others fail in turn. So
the question is put to the store that they met at.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from maml_fast.distributed._errors import PeerFailedError, PeerLostError, PeerStopped

__all__ = ["LastWords", "Roll", "last_words"]

BEAT = 1.0  # seconds between two beats of a pulse
SILENCE = 8.0  # seconds without one, after which a process is taken for dead
GLANCE = 0.1  # seconds between two looks


class LastWords(NamedTuple):
    """Why a process left: ``stopped`` by a signal, ``failed`` by an error, or because ``another`` did."""

    why: str
    text: str = ""
    signal_number: int = 0


def last_words(error: BaseException) -> LastWords:
    """Those of a process that ends by this."""
    if isinstance(error, PeerLostError | PeerFailedError | PeerStopped):
        return LastWords("another")
    if isinstance(error, KeyboardInterrupt):
        return LastWords("stopped", signal_number=getattr(error, "signal_number", 2))
    return LastWords("failed", f"{type(error).__name__}: {error}")


class Roll:
    """The processes' pulses and last words in a store of theirs.

    Args:
        store: a ``torch.distributed`` store, which this object has for itself.
        rank: of this process.
        places: where each process runs, by rank: for people to read.
    """

    def __init__(self, store: Any, rank: int, places: Sequence[str]) -> None:
        self._store, self._rank, self._places = store, rank, places
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="pulse")
        self._thread.start()

    def leave(self, words: LastWords | None = None) -> None:
        """Stop the pulse, and say why."""
        with contextlib.suppress(Exception):  # who holds the store may have left first
            self._store.set(f"words {self._rank}", json.dumps(words or LastWords("done")))
        self._ended.set()
        self._thread.join(BEAT)  # or less: it may be waiting for a store that is gone

    def check_pulses(self) -> dict[int, LastWords]:
        """The last words of those that left; raises PeerLostError for the dead, who said none.

        Returns as soon as all others have left or were seen alive; it takes ``SILENCE`` to know that one is dead.
        """
        try:
            left, silent = self._look()
        except Exception as error:  # torch's own types differ from store to store
            raise PeerLostError(f"rank 0 ({self._places[0]}), where all processes meet, does not answer") from error
        if silent:
            names = " and ".join(f"rank {rank} ({self._places[rank]})" for rank in silent)
            raise PeerLostError(f"{names} died, or does not answer; go on from the last checkpoint by --resume")
        return left

    def check(self) -> None:
        """Raise for those that are not there any more: the dead first, then the failed, then the stopped."""
        left = self.check_pulses()
        for rank, words in left.items():
            if words.why == "failed":
                raise PeerFailedError(f"rank {rank} ({self._places[rank]}) failed: {words.text}")
        for rank, words in left.items():
            if words.why == "stopped":
                raise PeerStopped(f"rank {rank} was stopped by signal {words.signal_number}", words.signal_number)

    def _look(self) -> tuple[dict[int, LastWords], list[int]]:
        """The last words of those that left, and who has neither said any nor a pulse."""
        unknown = {rank: self._pulse(rank) for rank in range(len(self._places)) if rank != self._rank}
        left: dict[int, LastWords] = {}
        deadline = time.monotonic() + SILENCE
        while unknown and time.monotonic() < deadline:
            time.sleep(GLANCE)
            for rank, before in list(unknown.items()):
                if self._store.check([f"words {rank}"]):
                    left[rank] = LastWords(*json.loads(self._store.get(f"words {rank}")))
                elif self._pulse(rank) == before:
                    continue
                del unknown[rank]
        return left, sorted(unknown)

    def _pulse(self, rank: int) -> int:
        return self._store.add(f"pulse {rank}", 0)

    def _beat(self) -> None:
        with contextlib.suppress(Exception):  # the store is gone, and with it all that could be told
            while not self._ended.wait(BEAT):
                self._store.add(f"pulse {self._rank}", 1)

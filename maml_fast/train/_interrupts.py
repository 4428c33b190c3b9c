"""Defers Ctrl-C to the end of a meta-iteration, so that the saved state is consistent."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """Context in which SIGINT and SIGTERM raise KeyboardInterrupt: at once, or at the end of a :meth:`deferred` block.

    A second signal during a deferred block raises at once, for a user who cannot wait. Outside the main thread, where
    Python does not allow signal handlers, entering changes nothing.

    Attributes:
        received: number of the signal received last, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferring = False
        self._waiting = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # A signal that the parent process set to be ignored (SIGINT in a shell's background job) stays ignored.
            for number in (n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self._deferring and not self._waiting:
            self._waiting = True
            return
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Enter a block that a first signal does not interrupt; KeyboardInterrupt is raised at the end of the block."""
        self._waiting = False
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.received is not None:  # also if an earlier KeyboardInterrupt was raised in a __del__, and lost
            raise KeyboardInterrupt

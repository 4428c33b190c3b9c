"""Ctrl-C that waits for the end of a step, so that what is saved is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """While entered, SIGINT and SIGTERM raise KeyboardInterrupt: at once, or at the end of a :meth:`deferred` part.

    A second signal during a deferred part raises at once, for a user who cannot wait. Outside the main thread, where
    Python allows no signal handlers, nothing is changed.

    Attributes:
        received: number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferring = False
        self._waiting = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # A signal that our starter has us ignore (SIGINT in a shell's background job) stays ignored.
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
        """A part that a first signal does not break into; it raises when the part has ended."""
        self._waiting = False
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.received is not None:  # also where the KeyboardInterrupt before was raised in a __del__, and lost
            raise KeyboardInterrupt

"""Exceptions that one process raises because of what happened to another process of its group."""

from __future__ import annotations

__all__ = ["PeerFailedError", "PeerLostError", "PeerStopped"]


class PeerLostError(RuntimeError):
    """Another process died, or its machine no longer answers."""


class PeerFailedError(RuntimeError):
    """Another process ended with an error, which that process reports itself."""


class PeerStopped(KeyboardInterrupt):
    """Another process was stopped by a signal.

    Attributes:
        signal_number: number of the signal that stopped it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

"""What a process raises because of another one."""

from __future__ import annotations

__all__ = ["PeerFailedError", "PeerLostError", "PeerStopped"]


class PeerLostError(RuntimeError):
    """A process died, or its machine no longer answers."""


class PeerFailedError(RuntimeError):
    """Another process ended with an error, which it tells itself."""


class PeerStopped(KeyboardInterrupt):
    """Another process was stopped by a signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

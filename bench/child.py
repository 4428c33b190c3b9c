"""An object in a process of its own, so that a crash there ends nothing else.

Processes come from a server that has imported PyTorch, with what its optimizers import, and maml_fast once, and
started no threads: a new one costs little.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["torch", "torch._dynamo", "maml_fast.train"])


class ChildError(RuntimeError):
    """Something failed in the process, or it died. ``causes`` are the names of the chained exceptions there."""

    def __init__(self, message: str, causes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.causes = causes


class Child:
    """``make(*arguments)`` in a new process, with these environment variables; a context manager.

    Raises:
        ChildError: from any call, where the object raises something, or the process dies. ``title`` is named.
    """

    def __init__(
        self, title: str, make: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None
    ) -> None:
        self._title = title
        self._connection, theirs = _FORKSERVER.Pipe()
        self._process = _FORKSERVER.Process(target=_serve, args=(theirs, dict(environment or {})))
        self._process.start()
        theirs.close()
        self._ask((make, arguments))

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the object's method returns."""
        return self._ask((method, arguments))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join()

    def _ask(self, question: tuple[Any, ...]) -> Any:
        try:
            self._connection.send(question)
            failed, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise ChildError(f"{self._title} {_death(self._process.exitcode)}") from None
        if failed:
            text, causes = answer
            raise ChildError(f"{self._title} failed: {text}", causes)
        return answer


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"left with exit code {exit_code}"


def _causes(error: BaseException | None) -> list[str]:
    names = []
    while error is not None:
        names.append(type(error).__name__)
        error = error.__cause__ or error.__context__
    return names


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    thing = None
    while True:
        try:
            what, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):  # the parent has closed its end, is no more, or is being stopped
            break
        try:
            if thing is None:
                thing, answer = what(*arguments), None
            else:
                answer = getattr(thing, what)(*arguments)
        except Exception as error:
            traceback.print_exc()
            connection.send((True, (f"{type(error).__name__}: {error}", _causes(error))))
        else:
            connection.send((False, answer))
    if thing is not None:
        thing.close()

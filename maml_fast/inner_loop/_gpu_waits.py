"""Tells where a thread waits for the GPU, by PyTorch's debug mode for synchronization."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

import torch

__all__ = ["SYNCHRONIZING", "waits_for_gpu"]

SYNCHRONIZING = "called a synchronizing CUDA operation"  # text of PyTorch's warning


class _Watch:
    """Threads that watch themselves, each with the places found so far.

    PyTorch's debug mode and Python's warnings apply to the whole process. They are set when the first thread begins and
    restored when the last one ends. The mode warns rather than raises, so that threads that do not watch, such as a
    prefetcher, may still wait for the GPU.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watching: list[tuple[int, list[str]]] = []  # threads with their places
        self._undo = ExitStack()

    def begin(self) -> list[str]:
        """Let this thread watch itself; return the places, to which those to come are added."""
        places: list[str] = []
        with self._lock:
            if not self._watching:
                self._turn_on()
            self._watching.append((threading.get_ident(), places))
        return places

    def end(self, places: list[str]) -> None:
        """End what :meth:`begin` began."""
        with self._lock:
            self._watching = [each for each in self._watching if each[1] is not places]
            if not self._watching:
                self._undo.close()

    def _turn_on(self) -> None:
        with ExitStack() as undo:
            undo.enter_context(warnings.catch_warnings())
            undo.callback(torch.cuda.set_sync_debug_mode, torch.cuda.get_sync_debug_mode())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns once per process that this mode is a prototype
                torch.cuda.set_sync_debug_mode("warn")
            warnings.filterwarnings("always", message=SYNCHRONIZING)
            show = warnings.showwarning

            def note(
                message: Warning | str,
                category: type[Warning],
                filename: str,
                lineno: int,
                file: TextIO | None = None,
                line: str | None = None,
            ) -> None:
                if SYNCHRONIZING not in str(message):
                    show(message, category, filename, lineno, file, line)
                    return
                for thread, places in self._watching:
                    if thread == threading.get_ident():
                        places.append(f"{filename}:{lineno}")

            warnings.showwarning = note
            self._undo = undo.pop_all()


_watch = _Watch()


@contextmanager
def waits_for_gpu() -> Iterator[list[str]]:
    """Context that collects, as ``file:line``, the places where this thread waits for the GPU.

    Several threads may be in such a context at a time; each collects its own places.
    """
    places = _watch.begin()
    try:
        yield places
    finally:
        _watch.end(places)

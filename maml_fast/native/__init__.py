"""The compiled kernels: loads the library and selects the backend.

The library is compiled for the installed torch, at first use or by :func:`build`, never at import. If that fails,
everything runs on pure PyTorch, after one warning. ``MAML_FAST_BACKEND`` is read once, at first use:

- ``auto`` (default): native kernels if they are available, else pure PyTorch;
- ``native``: native kernels, or an error if they are not available;
- ``reference``: pure PyTorch; nothing is compiled.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch  # also because the library links against torch's libraries, which must be loaded first

from maml_fast._arguments import flag, takes
from maml_fast.native import _build
from maml_fast.native._build import BuildError, BuildReport, cache_folder, is_ours, sha256_of
from maml_fast.native._not_compiled import not_compiled
from maml_fast.native._toolchain import instruction_sets, usable_cores

__all__ = [
    "Backend",
    "BuildReport",
    "backend",
    "build",
    "cache_folder",
    "give_back_memory",
    "has_cuda_kernels",
    "is_ours",
    "library",
    "sha256_of",
    "usable_cores",
    "use_backend",
    "when_loaded",
]


@dataclass(frozen=True)
class Backend:
    """The backend that runs, and why.

    Attributes:
        name: "native" (compiled kernels) or "reference" (pure PyTorch).
        reason: which kernels run, or why there are none.
    """

    name: Literal["native", "reference"]
    reason: str

    def __str__(self) -> str:
        """Return, for example, ``native (avx512 kernels for torch 2.13.0)``."""
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class _Attempt:
    """The outcome of the one attempt to load the library."""

    library: ModuleType | None
    reason: str


class _Forced(threading.local):  # not a ContextVar, which torch.compile can't trace
    name: str | None = None


_forced = _Forced()
_default: str | None = None  # the value of MAML_FAST_BACKEND, once read
_attempt: _Attempt | None = None
_warned = False
_callbacks: list[Callable[[], None]] = []
_lock = threading.Lock()


def library() -> ModuleType | None:
    """Return the compiled module; None if pure PyTorch runs. The first call builds and loads the module.

    Raises:
        RuntimeError: native kernels are required but can't be built.
        ValueError: MAML_FAST_BACKEND or MAML_FAST_CPU is invalid.
    """
    choice = _forced.name or _default or _read_default()
    if choice == "reference":
        return None
    attempt = _attempt or _try()
    if attempt.library is None:
        _fall_back(choice, attempt.reason)
    return attempt.library


def give_back_memory() -> None:
    """Return free heap memory to the operating system, which the C library would otherwise keep."""
    if (module := library()) is not None:
        module.give_back_memory()


def has_cuda_kernels() -> bool:
    """Return whether the library contains GPU kernels."""
    module = library()
    return module is not None and bool(module.has_cuda())


def backend() -> Backend:
    """Return the backend of the current thread, and why it runs; the first call may build the native kernels.

    Raises:
        RuntimeError: native kernels are required but can't be built.
        ValueError: MAML_FAST_BACKEND or MAML_FAST_CPU is invalid.
    """
    if _forced.name == "reference":
        return Backend("reference", "asked for by use_backend")
    if _forced.name is None and (_default or _read_default()) == "reference":
        return Backend("reference", "asked for by MAML_FAST_BACKEND")
    name: Literal["native", "reference"] = "reference" if library() is None else "native"
    return Backend(name, (_attempt or _try()).reason)


@contextlib.contextmanager
def use_backend(name: Literal["native", "reference"]) -> Iterator[None]:
    """Run the code in the block, in this thread, on the named backend, whatever MAML_FAST_BACKEND says.

    Blocks nest. Threads started inside the block use the process's default.

    Args:
        name: "native" or "reference".

    Raises:
        RuntimeError: ``name`` is "native", and native kernels can't be built.
        ValueError: ``name`` is unknown.
    """
    if not isinstance(name, str) or name not in ("native", "reference"):
        raise ValueError(f"backend {name!r} is unknown: use 'native' or 'reference'")
    before, _forced.name = _forced.name, name
    try:
        library()  # raises now, not in the middle of the block
        yield
    finally:
        _forced.name = before


@takes(verbose=flag, force=flag)
def build(verbose: bool = False, *, force: bool = False) -> BuildReport:
    """Compile the library unless it is in the cache, whatever MAML_FAST_BACKEND says.

    If an earlier attempt in this process failed and this one succeeds, the process uses the library from now on.

    Args:
        verbose: whether to show the compiler's output on stderr.
        force: whether to compile even if the library is in the cache.

    Returns:
        The path of the library, and how long compiling took.

    Raises:
        RuntimeError: the build fails; the message names what is missing.
    """
    global _attempt
    report = _build.ensure(_build.find_csrc(), cache_folder(), fresh=force, verbose=verbose)
    with _lock:
        if _attempt is not None and _attempt.library is None:
            _attempt = None
    return report


def when_loaded(callback: Callable[[], None]) -> Callable[[], None]:
    """Call ``callback`` once the library is loaded; a decorator for modules that use its operators."""
    with _lock:
        loaded = _attempt is not None and _attempt.library is not None
        if not loaded:
            _callbacks.append(callback)
    if loaded:
        callback()
    return callback


@not_compiled
def _read_default() -> str:
    global _default
    asked = os.environ.get("MAML_FAST_BACKEND") or "auto"
    if asked not in ("auto", "native", "reference"):
        raise ValueError(f"MAML_FAST_BACKEND={asked!r} is unknown: use 'auto', 'native' or 'reference'")
    known = instruction_sets()
    capability = os.environ.get("MAML_FAST_CPU") or known[-1]
    if capability not in known:
        raise ValueError(
            f"MAML_FAST_CPU={capability!r} is not an instruction set of the kernels for {platform.machine()}: "
            f"use one of {', '.join(map(repr, known))}, or unset it"
        )
    _default = asked
    return asked


@not_compiled
def _try() -> _Attempt:
    """Try to load the library, once per process, and return the outcome."""
    global _attempt
    with _lock:
        if _attempt is None:
            try:
                module, report = _load()
                gpu = " and CUDA" if module.has_cuda() else ""
                without = f", none for GPUs: {report.no_gpu}" if report.no_gpu else ""
                kernels = f"{module.cpu_capability()}{gpu} kernels for torch {torch.__version__}"
                _attempt = _Attempt(module, kernels + without)
            except (BuildError, ImportError, OSError) as error:
                _attempt = _Attempt(None, str(error))
        return _attempt


def _load() -> tuple[ModuleType, BuildReport]:
    csrc, cache = _build.find_csrc(), cache_folder()
    report = _build.ensure(csrc, cache)
    try:
        return _import(report.path), report
    except ImportError as error:
        if not report.cached:
            raise BuildError(f"the compiled library does not load: {error}") from error
    report = _build.ensure(csrc, cache, fresh=True)  # the cached file is damaged, or the system has changed
    return _import(report.path), report


def _import(path: Path) -> ModuleType:
    """Load the library; its static initializers register torch's custom operators."""
    spec = importlib.util.spec_from_file_location(_build.NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    while _callbacks:
        _callbacks.pop()()
    return module


def _fall_back(choice: str, reason: str) -> None:
    global _warned
    if choice == "native":
        raise RuntimeError(f"native kernels are required but not available: {reason}. See `maml-fast doctor`.")
    with _lock:
        first, _warned = not _warned, True
    if first:
        warnings.warn(
            f"maml_fast runs on pure PyTorch, which is slower: {reason}. See `maml-fast doctor`.",
            RuntimeWarning,
            stacklevel=3,
        )


def _unlock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it at the fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)

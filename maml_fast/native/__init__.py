"""The compiled kernels: which backend runs and why, and the only door to the library.

The library is compiled for the torch that is installed, on first need or by :func:`build`, never at import. Where that
fails everything runs on pure PyTorch, after one warning. ``MAML_FAST_BACKEND`` is read once, at first need:

- ``auto`` (default): native kernels, else pure PyTorch;
- ``native``: native kernels, else an error;
- ``reference``: pure PyTorch; nothing is compiled.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch  # also because the library links against torch's, which must be in the process before it

from maml_fast._arguments import flag, takes
from maml_fast.native import _build
from maml_fast.native._build import BuildError, BuildReport, cache_folder, is_ours, sha256_of
from maml_fast.native._not_compiled import not_compiled
from maml_fast.native._toolchain import usable_cores

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
    """Which kernels run here, and why."""

    name: Literal["native", "reference"]
    reason: str

    def __str__(self) -> str:
        """Return, for example, ``native (avx512 kernels for torch 2.13.0)``."""
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True)
class _Attempt:
    """What came of the one attempt to get the library."""

    library: ModuleType | None
    reason: str


class _Forced(threading.local):  # rather than a ContextVar, which torch.compile can't trace
    name: str | None = None


_forced = _Forced()
_default: str | None = None  # what MAML_FAST_BACKEND asks for, once read
_attempt: _Attempt | None = None
_warned = False
_callbacks: list[Callable[[], None]] = []
_lock = threading.Lock()


def library() -> ModuleType | None:
    """Return the compiled module, built and loaded at the first call; None where pure PyTorch runs.

    Raises RuntimeError where native kernels are demanded but can't be built, ValueError for a bad MAML_FAST_BACKEND.
    """
    choice = _forced.name or _default or _read_default()
    if choice == "reference":
        return None
    attempt = _attempt or _try()
    if attempt.library is None:
        _fall_back(choice, attempt.reason)
    return attempt.library


def give_back_memory() -> None:
    """Return what is free on the heap to the system, where the C library would keep it for itself."""
    if (module := library()) is not None:
        module.give_back_memory()


def has_cuda_kernels() -> bool:
    """Return whether the library holds kernels for GPUs."""
    module = library()
    return module is not None and bool(module.has_cuda())


def backend() -> Backend:
    """Return which kernels run in this thread now, and why. Builds them where :func:`library` would."""
    if _forced.name == "reference":
        return Backend("reference", "asked for by use_backend")
    if _forced.name is None and (_default or _read_default()) == "reference":
        return Backend("reference", "asked for by MAML_FAST_BACKEND")
    name: Literal["native", "reference"] = "reference" if library() is None else "native"
    return Backend(name, (_attempt or _try()).reason)


@contextlib.contextmanager
def use_backend(name: Literal["native", "reference"]) -> Iterator[None]:
    """Run the block's code, in this thread, on the named backend, whatever MAML_FAST_BACKEND says.

    Blocks nest; threads started inside have the process's default. Raises RuntimeError where ``"native"`` can't be
    built, ValueError for another name.
    """
    if not isinstance(name, str) or name not in ("native", "reference"):
        raise ValueError(f"backend {name!r} is unknown: use 'native' or 'reference'")
    before, _forced.name = _forced.name, name
    try:
        library()  # raises here and now rather than in the middle of the block
        yield
    finally:
        _forced.name = before


@takes(verbose=flag, force=flag)
def build(verbose: bool = False, *, force: bool = False) -> BuildReport:
    """Compile the library unless the cache holds it (``force``: anyhow), whatever MAML_FAST_BACKEND says.

    ``verbose`` shows the compiler's output on stderr. Raises RuntimeError, naming what is missing, where it fails; a
    success after an earlier failure in this process takes effect.
    """
    global _attempt
    report = _build.ensure(_build.find_csrc(), cache_folder(), fresh=force, verbose=verbose)
    with _lock:
        if _attempt is not None and _attempt.library is None:
            _attempt = None
    return report


def when_loaded(callback: Callable[[], None]) -> Callable[[], None]:
    """Have ``callback`` called once the library is loaded (a decorator, for modules that build on its operators)."""
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
    capability = os.environ.get("MAML_FAST_CPU") or "generic"
    if capability not in ("avx512", "avx2", "generic"):
        raise ValueError(f"MAML_FAST_CPU={capability!r} is unknown: use 'avx512', 'avx2' or 'generic', or unset it")
    _default = asked
    return asked


@not_compiled
def _try() -> _Attempt:
    """Get the library, once in the life of this process, whatever comes of it."""
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
    report = _build.ensure(csrc, cache, fresh=True)  # damaged in the cache, or the system changed under it
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
        raise RuntimeError(f"native kernels are demanded but can't be had: {reason}. See `maml-fast doctor`.")
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

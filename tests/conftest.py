"""Says which backend the suite runs on, and leaves out, visibly, the tests that need what this machine has not."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import warnings
from pathlib import Path

import pytest

# Before torch loads its OpenMP: threads that spin while they wait make the suite ten times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # the others have the other cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from maml_fast import native
from maml_fast.native._toolchain import usable_cores

# A shell starts its background jobs with SIGINT ignored; the tests of interrupted training need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = (
    "build_folder",
    "device_thread",
    "forks",
    "gpu_on_host",
    "graph_on_host",
    "photos",
    "tiny_library",
    "tiny_omniglot",
    "tiny_run",
    "ranks",  # which imports the one before
)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the whole suite over the cores where pytest-xdist is installed; named tests run in this process."""
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # which must not start workers of its own
    if whole and not is_worker and config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None:
        config.option.numprocesses = 0 if config.option.usepdb else usable_cores()
        config.option.dist = "worksteal" if config.option.numprocesses else "no"


def _missing() -> dict[str, str]:
    """Return the markers whose tests can't run here, each with what they want."""
    missing = {}
    backend = _backend()
    if backend.name != "native":
        missing["native"] = f"runs on {backend}"
    data = os.environ.get("MAML_FAST_DATA")
    if not data:
        missing["omniglot"] = "set MAML_FAST_DATA to the folder that holds omniglot/"
    elif not Path(data, "omniglot").is_dir():
        raise pytest.UsageError(f"MAML_FAST_DATA={data!r} holds no folder omniglot/")
    if not torch.cuda.is_available():
        missing["cuda"] = "no CUDA device"
    if _is_absent("nvcc") and "CI" not in os.environ:
        missing["nvcc"] = "nvcc is not installed"
    if any(map(_is_absent, ("cuobjdump", "nvdisasm"))) and "CI" not in os.environ:
        missing["cuobjdump"] = "cuobjdump and nvdisasm, of the CUDA toolkit, are not on PATH"
    return missing


def _is_absent(program: str) -> bool:
    return shutil.which(program) is None


def _backend() -> native.Backend:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the header says what the fallback's warning would
            return native.backend()
    except (RuntimeError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header() -> list[str]:
    left_out = [f"deselected: tests marked {marker} ({reason})" for marker, reason in _missing().items()]
    return [f"maml_fast backend: {_backend()}", *left_out]


def pytest_collection_finish() -> None:
    """Take all that was imported out of the garbage collector's sight: it stays, and looking through it takes long."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    markers = set(_missing())
    left_out = [item for item in items if markers & {mark.name for mark in item.iter_markers()}]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def fresh_backend(monkeypatch, tmp_path) -> Path:
    """Put native.py into the state of a new process without settings; return its cache folder, not yet made."""
    monkeypatch.delenv("MAML_FAST_BACKEND", raising=False)
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "cache"))
    for name, value in {"_attempt": None, "_default": None, "_warned": False, "_callbacks": []}.items():
        monkeypatch.setattr(native, name, value)
    return tmp_path / "cache"

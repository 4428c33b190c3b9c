"""Forks of this process in place of new ones, which would spend seconds on importing PyTorch again."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from maml_fast.native import _build


def fork(task: Callable[[], object], told: Path, environment: Mapping[str, str] | None = None) -> ForkProcess:
    """Start the task in a fork with this environment, which writes its stdout and stderr to the file ``told``."""

    def run() -> None:
        file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the process ends
        os.environ.update(environment or {})
        task()

    process = multiprocessing.get_context("fork").Process(target=run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking a process that has threads
        process.start()
    return process


def killed(task: Callable[[], object], told: Path) -> bool:
    """Whether the task, in a fork, ended by SIGKILL."""
    process = fork(task, told)
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture
def forked_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let builds run ``_compile.py`` in a fork."""

    def run(command: list[str], environment: dict[str, str], verbose: bool) -> tuple[int, str]:
        *python, script, job = command
        assert python == [sys.executable, "-W", "ignore"]
        assert not verbose

        def compile_job() -> None:
            warnings.simplefilter("ignore")
            sys.modules.pop("torch.utils.cpp_extension", None)  # which reads the environment when it is imported
            sys.argv = [script, job]
            runpy.run_path(script, run_name="__main__")

        told = tmp_path / "told-by-compile"
        process = fork(compile_job, told, environment)
        process.join()
        return process.exitcode, told.read_text()

    monkeypatch.setattr(_build, "_run", run)

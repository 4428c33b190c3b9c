"""What is costly to make is made once, whatever number of processes the tests run in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from maml_fast.native._toolchain import find_compiler

BuildFolder = Callable[[str], AbstractContextManager[Path]]
MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def folder_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new folder that all processes of this run share."""
    of_process = tmp_path_factory.getbasetemp()
    return of_process.parent if "PYTEST_XDIST_WORKER" in os.environ else of_process


@pytest.fixture(scope="session")
def made_once(folder_of_run: Path) -> MadeOnce:
    """Return a folder by name, which one process of this run has filled, and the others waited for."""

    def filled(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = folder_of_run / name, folder_of_run / f"{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def build_folder(pytestconfig: pytest.Config, folder_of_run: Path) -> BuildFolder:
    """Hand out a folder by name to compile in, to one process at a time.

    It lies in pytest's cache, where there is one, so that the next run compiles only what has changed since. Another
    torch or another compiler has another folder.
    """
    parent = pytestconfig.cache.mkdir("builds") if hasattr(pytestconfig, "cache") else folder_of_run
    tools = hashlib.sha256(f"{torch.__version__} {find_compiler()}".encode()).hexdigest()[:12]

    @contextmanager
    def only_user(name: str) -> Iterator[Path]:
        folder = parent / f"{name}-{tools}"
        with FileLock(f"{folder}.lock"):
            folder.mkdir(exist_ok=True)
            yield folder

    return only_user

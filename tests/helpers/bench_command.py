"""The benchmarks' command, in this process or as a user runs it; and the settings that options make."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import settings

from maml_fast.cli import benchmark


def run_here(**options: object) -> int:
    """Do what ``benchmark.run`` does, but in this process, which has imported PyTorch already."""

    def call(command: Sequence[object]) -> int:
        assert command[1:3] == ["-m", "pytest"]
        return pytest.main([str(argument) for argument in command[3:]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "_call", call)
        return benchmark.run(**options)


def run_as_a_user(**options: object) -> int:
    """``benchmark.run``, untold that the tests run in several processes, where pytest-benchmark would time nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
            patch.delenv(name, raising=False)
        return benchmark.run(**options)


def settings_of(**options: object) -> settings.Settings:
    """Return the settings of a quick run with these options."""
    names = ("--sweeps", "--seconds", "--out", "--workloads", "--peers")
    given = {**dict.fromkeys(names), "--quick": True, "--device": "cpu", "--precision": "exact"}
    given.update({f"--{name}": value for name, value in options.items()})
    return settings.Settings.of(SimpleNamespace(getoption=given.__getitem__))

"""The benchmarks' command, in this process or as a user runs it; and the settings that options make."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import settings

from maml_fast.cli import _benchmark as benchmark


@contextmanager
def as_a_user() -> Iterator[pytest.MonkeyPatch]:
    """Hide that the tests run in several processes, where pytest-benchmark would time nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
            patch.delenv(name)
        yield patch


def run(**options: object) -> int:
    """Do ``benchmark.run`` as a user would."""
    with as_a_user():
        return benchmark.run(**options)


def run_here(**options: object) -> int:
    """Do the same, but in this process, which has imported PyTorch already."""

    def call(command: Sequence[object]) -> int:
        assert command[1:3] == ["-m", "pytest"]
        return pytest.main([str(argument) for argument in command[3:]])

    with as_a_user() as patch:
        patch.setattr(benchmark, "_call", call)
        return benchmark.run(**options)


def settings_of(**options: object) -> settings.Settings:
    """Return the settings of a quick run with these options."""
    names = ("--sweeps", "--seconds", "--out", "--workloads", "--peers")
    given = {**dict.fromkeys(names), "--quick": True, "--device": "cpu", "--precision": "exact"}
    given.update({f"--{name}": value for name, value in options.items()})
    return settings.Settings.of(SimpleNamespace(getoption=given.__getitem__))

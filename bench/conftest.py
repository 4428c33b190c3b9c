"""Options, what the benches share, and at the end the report."""

from __future__ import annotations

import os
import time
import warnings
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import report
import sgemm
import torch
from measurements import Measurements, unique
from settings import FOUND, KEY, Settings, found_by
from timing import Timer

from maml_fast import native
from maml_fast.cli import benchmark as command
from maml_fast.train.record import describe_machine

ABOUT = pytest.StashKey[dict]()
RECORD = pytest.StashKey[dict]()
FILES = pytest.StashKey[list]()


def pytest_addoption(parser):
    group = parser.getgroup("maml_fast")
    group.addoption("--quick", action="store_true", help="tiny workloads, to see that everything works")
    group.addoption("--workloads", help="these alone, such as W1,W3-order2 (default: all)")
    group.addoption("--peers", help="maml_fast and these alone, such as loop,vmap (default: all)")
    group.addoption("--sweeps", type=int, help="how often everything is measured (default: 3)")
    group.addoption("--seconds", type=float, help="for how long each time, about (default: 2)")
    group.addoption("--out", help="new folder for the JSON, the table and the picture (default: none is written)")


def pytest_configure(config):
    config.stash[KEY] = Settings.of(config)
    config.stash[FOUND] = Measurements()


def pytest_report_header(config):
    left_out = [f"left out: {name} ({reason})" for name, reason in _left_out().items()]
    return [f"maml_fast backend: {_backend()}", *left_out]


def pytest_ignore_collect(collection_path):
    return True if collection_path.name in _left_out() else None


def pytest_collection_finish(session):
    """Before any work: claim the folder, and note what the machine is doing."""
    config = session.config
    ours = [item for item in session.items if item.path.parent == Path(__file__).parent]
    if config.option.collectonly or not ours:
        return
    asked = config.stash[KEY]
    if asked.out is not None:
        try:
            command.claim(asked.out)
        except OSError as error:
            raise pytest.UsageError(str(error)) from error
    config.stash[ABOUT] = _about(asked)
    config.stash[ABOUT]["sgemm_before"] = sgemm.peaks(512 if asked.quick else 4096)


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if ABOUT not in config.stash:
        return
    about = config.stash[ABOUT]
    asked = config.stash[KEY]
    before, after = about.pop("sgemm_before"), sgemm.peaks(512 if asked.quick else 4096)
    about["load_average_after"] = os.getloadavg()
    about["minutes"] = (time.time() - about.pop("started")) / 60
    about["complete"] = exitstatus == pytest.ExitCode.OK
    best = {name: max(before[name], after[name]) for name in before}
    record = config.stash[RECORD] = found_by(config).record(about, best)
    if asked.out is not None:
        config.stash[FILES] = report.write(record, asked.out)


def pytest_terminal_summary(terminalreporter, config):
    if RECORD in config.stash:
        terminalreporter.section("maml_fast bench")
        terminalreporter.write_line(report.markdown(config.stash[RECORD]))
        if FILES in config.stash:
            terminalreporter.write_line(f"written: {', '.join(config.stash[FILES])} in {config.stash[KEY].out}")


def pytest_benchmark_group_stats():
    """No tables of pytest-benchmark's: the report has what they would say."""
    return []


@pytest.fixture
def asked(pytestconfig):
    return pytestconfig.stash[KEY]


@pytest.fixture
def found(pytestconfig):
    return found_by(pytestconfig)


@pytest.fixture
def timer(benchmark, pytestconfig):
    return Timer(benchmark, pytestconfig.stash[KEY].seconds)


def _backend():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the header and the report say what the fallback's warning would
            return native.backend()
    except (RuntimeError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error


def _left_out():
    """Benches that have nothing to measure here, and why."""
    return {} if _backend().name == "native" else {"bench_scaling.py": "it is native kernels that may have cliffs"}


def _about(asked):
    machine = describe_machine()
    del machine["command"]  # pytest's, full of paths
    backend = _backend()
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine,
        "libraries": _versions(peer.library for peer in asked.peers),
        "backend": {"name": backend.name, "reason": backend.reason},
        "threads": torch.get_num_threads(),
        "settings": {"quick": asked.quick, "sweeps": asked.sweeps, "seconds": asked.seconds},
        "load_average_before": os.getloadavg(),
        "started": time.time(),
    }


def _versions(libraries):
    return {name: version(name) for name in unique(libraries) if name is not None and find_spec(name) is not None}

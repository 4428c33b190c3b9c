"""The options of the benchmarks, what they share, and the report at the end."""

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
from measurements import Measurements, unique
from place import DEVICES, PRECISIONS
from settings import FOUND, KEY, Settings, found_by
from timing import Timer

from maml_fast import native
from maml_fast.cli import _benchmark as command
from maml_fast.train._record import describe_machine

ON_GPUS = ("bench_iteration.py", "bench_op.py", "bench_gpu_scaling.py")  # the benches that a GPU can run
FOR_GPUS = ("bench_gpu_scaling.py",)  # and nobody else

ABOUT = pytest.StashKey[dict]()
RECORD = pytest.StashKey[dict]()
FILES = pytest.StashKey[list]()


def pytest_addoption(parser):
    group = parser.getgroup("maml_fast")
    group.addoption("--quick", action="store_true", help="tiny workloads, to see that everything works")
    group.addoption("--workloads", help="these alone, such as W1,W3-order2,A-anil (default: all)")
    group.addoption("--peers", help="maml_fast and these alone, such as loop,vmap (default: all)")
    group.addoption("--sweeps", type=int, help="how often everything is measured (default: 3)")
    group.addoption("--seconds", type=float, help="for how long each time, about (default: 2)")
    group.addoption("--device", choices=DEVICES, default="cpu", help="where to compute (default: cpu)")
    group.addoption(
        "--precision", choices=PRECISIONS, default="exact", help="on cuda, products of float32 (default: exact)"
    )
    group.addoption("--out", help="new folder for the JSON, the table and the picture (default: none is written)")


def pytest_configure(config):
    config.stash[KEY] = Settings.of(config)
    config.stash[FOUND] = Measurements()


def pytest_report_header(config):
    asked = config.stash[KEY]
    left_out = [f"left out: {name} ({reason})" for name, reason in _left_out(asked).items()]
    return [f"maml_fast backend: {_backend(asked)}", f"device: {asked.place}", *left_out]


def pytest_ignore_collect(collection_path, config):
    return True if collection_path.name in _left_out(config.stash[KEY]) else None


def pytest_collection_finish(session):
    """Before any work, claim the folder and record the machine's load."""
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
    asked.place.keep_to()
    config.stash[ABOUT]["sgemm_before"] = _sgemm(asked)


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if ABOUT not in config.stash:
        return
    about = config.stash[ABOUT]
    asked = config.stash[KEY]
    before, after = about.pop("sgemm_before"), _sgemm(asked)
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
    """Print no tables of pytest-benchmark: the report contains the same."""
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


def _sgemm(asked):
    return sgemm.peaks(asked.place, sgemm.QUICK if asked.quick else sgemm.SIZES[asked.place.device])


def _backend(asked):
    """Return the backend of maml_fast at the requested place."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the header and the report already name the fallback
            found = native.backend()
    except (RuntimeError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error
    if asked.place.device == "cuda" and found.name == "native" and not native.has_cuda_kernels():
        return native.Backend("reference", "no kernels for GPUs were compiled: see `maml-fast doctor`")
    return found


def _left_out(asked):
    """Return the benchmarks that have nothing to measure here, and why."""
    if asked.place.device == "cuda":
        names = sorted(path.name for path in Path(__file__).parent.glob("bench_*.py"))
        return {name: "it measures the CPU" for name in names if name not in ON_GPUS}
    left_out = dict.fromkeys(FOR_GPUS, "it measures a GPU")
    if _backend(asked).name != "native":
        left_out["bench_scaling.py"] = "it measures native kernels"
    return left_out


def _about(asked):
    machine = describe_machine(asked.place.device)
    del machine["command"]  # pytest's, full of paths
    backend = _backend(asked)
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine,
        "libraries": _versions(asked.peers),
        "backend": {"name": backend.name, "reason": backend.reason},
        "threads": asked.place.threads,
        "device": asked.place.device,
        "precision": asked.place.precision,
        "settings": {"quick": asked.quick, "sweeps": asked.sweeps, "seconds": asked.seconds},
        "load_average_before": os.getloadavg(),
        "started": time.time(),
    }


def _versions(peers):
    names = unique(peer.distribution or peer.library for peer in peers if peer.library and find_spec(peer.library))
    return {name: version(name) for name in names}

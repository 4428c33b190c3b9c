"""bench/gpu_check.sh, with programs of its own making in the place of Python and compute-sanitizer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.backendless

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "gpu_check.sh"


@pytest.fixture
def check(tmp_path):
    """Run it with this text as the Python, and with these commands; return the exit code, the output, the folder."""

    def run(python, steps, commands=(), **environment):
        programs, out = tmp_path / "programs", tmp_path / "out"
        programs.mkdir()
        for name, text in {"python": python, **dict(commands)}.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        place = {"PATH": f"{programs}:/usr/bin:/bin", "CUDA_HOME": "/nowhere", "PYTHON": str(programs / "python")}
        environment = {**place, "OUT": str(out), "STEPS": steps, **environment}
        done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr, out

    return run


def statuses(out):
    return {path.stem: int(path.read_text()) for path in out.glob("*.status")}


def test_all_is_well(check):
    code, told, out = check('echo "ran $*"', "build tests exact tf32", WORKLOADS="W1,F", PEERS="loop")
    assert code == 0, told
    assert statuses(out) == dict.fromkeys(("build", "tests", "exact", "tf32"), 0)
    arguments = f"bench --device cuda --precision tf32 --sweeps 1 --out {out}/bench-tf32 --workloads W1,F --peers loop"
    assert f"ran -m maml_fast {arguments}\n" in (out / "tf32.log").read_text()
    assert "ran -m pytest -m cuda" in (out / "tests.log").read_text()
    assert (out / "summary.txt").read_text() in told


def test_what_fails_is_told_and_the_rest_runs(check):
    code, told, out = check("exit 3", "facts tests exact", {"nvidia-smi": "true", "nvcc": "true"})
    assert code == 1
    assert statuses(out) == {"facts": 3, "tests": 3, "exact": 3}
    assert told.count("FAILED: status 3") == 3


def test_missing_modules_are_named(check):
    python = 'case "$1$2" in -c*find_spec*) echo "no hypothesis"; exit 1;; esac; touch ran'
    code, _, out = check(python, "tests")
    assert code == 1
    assert (out / "tests.log").read_text() == "no hypothesis\n"


def test_without_a_sanitizer_others_go_on(check):
    code, told, out = check("true", "memcheck racecheck tests")
    assert statuses(out)["tests"] == 0
    if "LEFT OUT" in told:  # else there is one in /usr/bin
        assert code == 0
        assert statuses(out) == {"memcheck": 77, "racecheck": 77, "tests": 0}
        assert "compute-sanitizer is not installed here: memcheck is left out" in told


def test_sanitizers_watch_our_kernels_alone(check):
    code, told, out = check("true", "memcheck racecheck", {"compute-sanitizer": 'echo "$*"; exit 9'})
    assert code == 1
    assert statuses(out) == {"memcheck": 9, "racecheck": 9}
    for tool in ("memcheck", "racecheck"):
        assert f"--tool {tool} --error-exitcode 9" in (out / f"{tool}.log").read_text()
    assert told.count("--kernel-name kernel_substring=maml_fast") == 2


@pytest.mark.parametrize("limit", ["SECONDS_EACH", "SECONDS_TOTAL"])
def test_time_is_bounded(check, limit):
    code, told, out = check("exec sleep 60", "build tests", **{limit: "1"})
    assert code == 1
    assert statuses(out) == {"build": 124, "tests": 124}
    assert ("no time is left" in told) == (limit == "SECONDS_TOTAL")


def test_an_unknown_step_is_found_before_the_work(check):
    code, told, out = check("true", "facts sauna")
    assert code == 2
    assert "there is no 'sauna'" in told
    assert statuses(out) == {}

"""bench/gpu_check.sh, with programs of its own making in the place of Python and compute-sanitizer."""

from __future__ import annotations

import subprocess
import tarfile

import pytest
from checkout import BENCH

pytestmark = pytest.mark.backendless

SCRIPT = BENCH / "gpu_check.sh"


@pytest.fixture
def check(tmp_path):
    """Run it with this text as the Python, and with these commands; return the exit code, the output, the folder."""

    def run(python, steps, commands=(), **environment):
        programs, out = tmp_path / "programs", tmp_path / "out"
        programs.mkdir(exist_ok=True)
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


def test_benchmarks_are_told_what_to_select(check):
    code, _, out = check('echo "ran $*"', "exact", SELECT="iteration or op", SECONDS_TIMED="1")
    assert code == 0
    assert (out / "exact.log").read_text().endswith(f"--out {out}/bench-exact --seconds 1 -k iteration or op\n")


def test_without_nsight_or_data_others_go_on(check):
    code, told, out = check("true", "profile omniglot-5w1s omniglot-20w1s tests")
    assert code == 0
    assert statuses(out) == {"profile": 77, "omniglot-5w1s": 77, "omniglot-20w1s": 77, "tests": 0}
    assert "ncu, Nsight Compute's program, is not installed here" in told
    assert told.count("MAML_FAST_DATA is not set to the folder that holds omniglot/") == 2
    assert (out / "summary.txt").read_text().count("LEFT OUT") == 3


def test_nsight_watches_the_products_in_both_precisions(check):
    code, _, out = check("true", "profile", {"ncu": 'echo "$*"'})
    assert code == 0
    told = (out / "profile.log").read_text()
    for precision in ("exact", "tf32"):
        assert f"bench/gpu_products.py --precision {precision}\n" in told
    assert told.count("--clock-control none") == told.count("--kernel-name regex:MultiplyKernel") == 2


TRAINS = r"""
case "$*" in
  *find_spec*) exit 0 ;;
  *--resume*) run=${*##*--resume } ;;
  *) run=${*##*--out } ;;
esac
echo "trained: $*"
mkdir -p "$run"
echo '{}' >"$run/config.json"
echo '{"iteration": 1}' >>"$run/metrics.jsonl"
touch "$run/checkpoint.pt"
"""


def test_a_training_leaves_its_run_folder_with_packed_metrics(check):
    code, told, out = check(TRAINS, "omniglot-5w1s omniglot-20w1s", MAML_FAST_DATA="/data")
    assert code == 0, told
    for ways in (5, 20):
        run = out / f"omniglot-{ways}w1s"
        recipe = f"reproduce finn2017-omniglot-{ways}w1s --device cuda --root /data --out {run}"
        assert f"trained: -m maml_fast {recipe}\n" in (out / f"omniglot-{ways}w1s.log").read_text()
        assert {path.name for path in run.iterdir()} == {"config.json", "metrics.jsonl.gz", "checkpoint.pt"}


def test_a_stopped_training_goes_on_and_a_whole_one_is_left(check, tmp_path):
    runs = tmp_path / "runs"
    options = {"MAML_FAST_DATA": "/data", "RUNS": str(runs)}
    stops = f"{TRAINS}\ncase $* in *reproduce*) exec sleep 60 ;; esac"
    code, _, out = check(stops, "omniglot-5w1s", SECONDS_EACH="3", **options)
    assert code == 1
    assert statuses(out) == {"omniglot-5w1s": 124}
    run = runs / "omniglot-5w1s"
    assert (run / "metrics.jsonl").is_file()
    assert (out / run.name / "metrics.jsonl").is_file()  # what there is comes along
    for told in (f"-m maml_fast train --resume {run}\n", "has been trained already"):
        code, _, out = check(TRAINS, "omniglot-5w1s", **options)
        assert code == 0
        assert told in (out / "omniglot-5w1s.log").read_text()
        kept = {path.name for path in (out / run.name).iterdir()}
        assert kept == {"config.json", "metrics.jsonl.gz", "checkpoint.pt"}


def test_an_archive_has_all_that_there_is(check, tmp_path):
    archive = tmp_path / "all.tar.gz"
    code, _, out = check(TRAINS, "profile omniglot-5w1s", MAML_FAST_DATA="/data", ARCHIVE=str(archive))
    assert code == 0
    with tarfile.open(archive) as packed:
        names = set(packed.getnames())
    folder = out.name
    expected = [
        "profile.log",
        "profile.status",
        "summary.txt",
        "omniglot-5w1s.status",
        "omniglot-5w1s/metrics.jsonl.gz",
    ]
    assert {f"{folder}/{name}" for name in expected} <= names


def test_an_unknown_step_is_found_before_the_work(check):
    code, told, out = check("true", "facts sauna")
    assert code == 2
    assert "there is no 'sauna'" in told
    assert statuses(out) == {}

"""The benchmarks as a command: a quick run, memory, bad input."""

from __future__ import annotations

import json
import re

import blocks
import memory
import parity
import pytest
import report
import workloads
from bench_command import as_a_user, run, run_here
from forks import fork
from peers import NAIVE, OURS, of_use_on
from scaling import AVX2, FLOAT32, FLOAT64

from maml_fast import native
from maml_fast.cli import _benchmark as benchmark
from maml_fast.cli import main
from maml_fast.native._toolchain import instruction_sets

pytestmark = pytest.mark.backendless

W3 = workloads.named("W3-order2")


def test_what_does_not_fit_is_not_run(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda _: 10 * 2**30)
    assert memory.shortage(8 * 2**30) is None
    assert memory.shortage(9.5 * 2**30) == "needs about 9.5 GiB of memory, 10.0 GiB are available"


def test_where_the_system_does_not_tell_all_is_run(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda _: None)
    assert memory.shortage(1e15) is None


def test_peers_with_all_tasks_at_once_need_most():
    needed = {peer.name: peer.memory_needed(W3) for peer in of_use_on("cpu")}
    assert 6 < needed["vmap"] / 2**30 < 17
    assert max(needed["loop"], needed["maml_fast"]) < needed["vmap"]


WORKLOADS = (workloads.named("Q2"), workloads.named("QA-anil"))


@pytest.fixture(scope="module")
def quick(made_once):
    """The record of a run that touches every bench and every peer once."""
    names = ",".join(workload.name for workload in WORKLOADS)

    def fill(out):
        assert run(quick=True, out=out, seconds=0.01, workloads=names) == 0

    return made_once("quick_bench", fill)


def test_quick_run_measures_everyone(quick):
    record = json.loads((quick / "bench.json").read_text())
    assert record["complete"]
    assert record["backend"]["name"] == native.backend().name
    assert record["floor_gflops"] > 0
    measured = {(row["bench"], row["subject"], row["who"]) for row in record["rows"] if row["rounds"]}
    workload, of_algorithm = WORKLOADS
    for peer in of_use_on("cpu"):
        is_there = ("iteration", workload.name, peer.title) in measured
        assert is_there == (peer.obstacle(workload) is None)
    assert ("sampler", workload.name, native.backend().name) in measured
    assert {("chunks", workload.name, OURS.title), ("many tasks", workload.name, OURS.title)} <= measured
    assert {("algorithms", of_algorithm.algorithm, peer.title) for peer in (OURS, NAIVE)} <= measured
    for block in blocks.QUICK:
        assert {who for bench, subject, who in measured if subject == block.name} == set(blocks.implementations())
    for row in record["rows"]:
        if row["bench"] == "iteration" and row["rounds"]:
            assert 0 < row["peak_mib"] < 4096
            assert max(row["parity"]["loss"], row["parity"]["gradient"]) < parity.TOLERANCE
    assert record["rows"][0]["who"] == OURS.title
    assert "CUDA" not in (quick / "bench.md").read_text()  # what is for GPUs is not even named


@pytest.mark.native
def test_quick_run_draws_curves_and_tells_kernels_from_the_rest(quick):
    rows = json.loads((quick / "bench.json").read_text())["rows"]
    curves = {(row["subject"], row["who"]) for row in rows if row["bench"] == "scaling" and row["rounds"]}
    assert {subject for subject, _ in curves} == {"tasks", "images of a task", "channels", "image size", "threads"}
    expected = {FLOAT32, FLOAT64, AVX2} if "avx2" in instruction_sets() else {FLOAT32, FLOAT64}
    assert {who for _, who in curves} == expected
    assert 0 < rows[0]["shares"]["convolutions"] < 1
    assert (quick / "scaling.png").is_file()


def test_quick_run_writes_table_and_picture(quick):
    assert {"bench.json", "bench.md", "bench.png"} <= {path.name for path in quick.iterdir()}
    text = (quick / "bench.md").read_text()
    assert text == report.markdown(json.loads((quick / "bench.json").read_text()))
    assert ("The native kernels are not active" in text) == (native.backend().name != "native")


def test_a_record_is_never_overwritten(quick):
    with pytest.raises(FileExistsError, match="holds a record already; choose another with --out"):
        benchmark.run(quick=True, out=quick)


def test_a_folder_that_can_not_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/out can't be written.*choose another with --out"):
        benchmark.run(quick=True, out=tmp_path / "file" / "out")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(benchmark, "NEEDED", ("pytest", "no_such_plugin"))
    with pytest.raises(RuntimeError, match=r"no-such-plugin not installed: pip install 'maml_fast\[bench\]'"):
        benchmark.run()


def test_nothing_selected_leaves_nothing(tmp_path, capfd):
    code = run_here(quick=True, out=tmp_path / "new", pytest_arguments=["-k", "no_such_bench"])
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweeps": -1}, "--sweeps must be positive, got -1"),
        ({"workloads": "W1,W33"}, "--workloads: there is no 'W33'; there are W1, W2-order2, W2,"),
        ({"peers": "loop,nobody"}, "--peers: there is no 'nobody'; there are maml_fast, tutorial, loop,"),
    ],
)
def test_bad_option_is_one_line(tmp_path, capfd, options, message):
    assert run_here(out=tmp_path / "new", **options) == pytest.ExitCode.USAGE_ERROR
    assert message in capfd.readouterr().err


def test_a_refusal_reaches_the_shell(tmp_path):
    """As one line and an exit code, out of the process that measures."""

    def command():
        with as_a_user():
            main(["bench", "--workloads", "W33", "--out", str(tmp_path / "new")])

    process = fork(command, tmp_path / "told")
    process.join()
    assert process.exitcode == pytest.ExitCode.USAGE_ERROR
    told = (tmp_path / "told").read_text()
    assert [line.partition(";")[0] for line in told.splitlines() if line] == [
        "ERROR: --workloads: there is no 'W33'"
    ], told


def test_workloads_and_peers_can_be_chosen(tmp_path, capfd):
    collect = ["--collect-only", "-q", "-k", "bench_iteration"]
    run_here(workloads="F,W3", peers="loop", sweeps=1, out=tmp_path / "new", pytest_arguments=collect)
    cases = re.findall(r"test_iteration\[(.+)-0\]", capfd.readouterr().out)
    names = ("W3-order2", "W3-order1", "F")
    assert cases == [f"{workload}-{peer}" for workload in names for peer in ("maml_fast", "loop")]


def test_algorithms_can_be_chosen(tmp_path, capfd):
    collect = ["--collect-only", "-q", "-k", "bench_algorithms"]
    run_here(workloads="W1,A-anil", peers="loop", sweeps=1, out=tmp_path / "new", pytest_arguments=collect)
    assert re.findall(r"test_algorithm\[(.+)-0\]", capfd.readouterr().out) == ["A-anil-maml_fast", "A-anil-naive"]


def test_default_folder_is_new_and_names_date_and_machine(tmp_path, monkeypatch):
    machine = {"processor": "Intel(R) Xeon(R) Platinum 8488C @ 2.40GHz", "cores": 48}
    monkeypatch.setattr(benchmark, "describe_machine", lambda device: machine)
    first = benchmark.default_out(tmp_path)
    assert first.name[10:] == "-intel-xeon-platinum-8488c-48-cores"
    first.mkdir()
    assert benchmark.default_out(tmp_path).name == f"{first.name}-2"


def test_suite_is_found_or_its_absence_told(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "__file__", str(tmp_path / "maml_fast" / "cli" / "benchmark.py"))
    with pytest.raises(FileNotFoundError, match="the benchmarks are missing"):
        benchmark.folder()
    for place in (tmp_path / "bench", tmp_path / "maml_fast" / "bench"):  # a checkout; an installed package
        place.mkdir(parents=True)
        (place / "conftest.py").touch()
        assert benchmark.folder() == place

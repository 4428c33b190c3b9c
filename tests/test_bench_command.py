"""The benchmarks as a command: a quick run, memory, bad input."""

from __future__ import annotations

import json

import blocks
import memory
import parity
import pytest
import report
import workloads
from peers import OURS, PEERS
from peers.loop import TaskLoop

from maml_fast import native
from maml_fast.cli import benchmark

Q1, _ = workloads.QUICK
_, _, W3 = workloads.WORKLOADS


def test_what_does_not_fit_is_not_run(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10 * 2**30)
    assert memory.shortage(8 * 2**30) is None
    assert memory.shortage(9.5 * 2**30) == "needs about 9.5 GiB of memory, 10.0 GiB are available"


def test_where_the_system_does_not_tell_all_is_run(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: None)
    assert memory.shortage(1e15) is None


def test_peers_with_all_tasks_at_once_need_most():
    needed = {peer.name: peer.memory_needed(W3) for peer in PEERS}
    assert 6 < needed["vmap"] / 2**30 < 17
    assert max(needed["loop"], needed["maml_fast"]) < needed["vmap"]


def test_a_failing_process_is_an_error():
    with pytest.raises(RuntimeError, match="nobody on Q1 failed in its own process"):
        memory.peak_in_child(Q1, type("Nobody", (TaskLoop,), {"name": "nobody", "title": "nobody"}))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "new"
    assert benchmark.run(quick=True, out=out) == 0
    return out


def test_quick_run_measures_everyone(quick):
    record = json.loads((quick / "bench.json").read_text())
    assert record["complete"]
    assert record["backend"]["name"] == native.backend().name
    assert record["floor_gflops"] > 0
    measured = {(row["bench"], row["subject"], row["who"]) for row in record["rows"] if row["rounds"]}
    for workload in workloads.QUICK:
        for peer in PEERS:
            is_there = ("iteration", workload.name, peer.title) in measured
            assert is_there == (peer.obstacle(workload) is None)
        assert ("sampler", workload.name, native.backend().name) in measured
    for block in blocks.QUICK:
        assert {who for bench, subject, who in measured if subject == block.name} == set(blocks.implementations())
    for row in record["rows"]:
        if row["bench"] == "iteration":
            assert max(row["parity"]["loss"], row["parity"]["gradient"]) < parity.TOLERANCE
    assert record["rows"][0]["who"] == OURS.title
    assert record["rows"][0]["peak_mib"] > 1


def test_quick_run_writes_table_and_picture(quick):
    assert sorted(path.name for path in quick.iterdir()) == ["bench.json", "bench.md", "bench.png"]
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
    code = benchmark.run(quick=True, out=tmp_path / "new", pytest_arguments=["-k", "no_such_bench"])
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not (tmp_path / "new").exists()


def test_bad_option_is_one_line(tmp_path, capfd):
    assert benchmark.run(out=tmp_path / "new", sweeps=-1) == pytest.ExitCode.USAGE_ERROR
    assert "--sweeps must be positive, got -1" in capfd.readouterr().err


def test_default_folder_is_new_and_names_date_and_machine(tmp_path, monkeypatch):
    machine = {"processor": "Intel(R) Xeon(R) Platinum 8488C @ 2.40GHz", "cores": 48}
    monkeypatch.setattr(benchmark, "describe_machine", lambda: machine)
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

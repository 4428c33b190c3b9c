from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_fast.train import _record as record
from maml_fast.train._board import Board
from maml_fast.train._metrics import MetricsLog, cut_metrics, read_metrics
from maml_fast.train._record import RunFolder, describe_machine

pytestmark = pytest.mark.backendless


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "stem")


def test_default_folders_are_fresh_and_numbered(tmp_path):
    names = [RunFolder.create(None, "strokes-5w1s", parent=tmp_path / "runs").path.name for _ in range(3)]
    assert names == ["strokes-5w1s-001", "strokes-5w1s-002", "strokes-5w1s-003"]


def test_out_may_be_new_or_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", "stem").path == tmp_path / "empty"
    assert RunFolder.create(tmp_path / "a" / "b", "stem").path.is_dir()
    assert list((tmp_path / "empty").iterdir()) == []


def test_out_must_not_hold_anything(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{tmp_path} is not empty.*--out.*--resume"):
        RunFolder.create(tmp_path, "stem")


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_out_must_be_a_folder_that_can_be_made(tmp_path, below):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"choose another --out"):
        RunFolder.create(tmp_path / below, "stem")


def test_unwritable_folder_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=rf"cannot write the run folder {tmp_path}/run: Permission denied"):
        RunFolder.create(tmp_path / "run", "stem")


@pytest.mark.parametrize("path", ["missing", "."])
def test_open_refuses_what_is_no_run(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        RunFolder.open(tmp_path / path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"arguments": 3}', b"\xff\xfe\x00"])
def test_damaged_config_is_named(run, content):
    run.config.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        RunFolder.open(run.path).read_config()


def test_a_failed_write_leaves_the_old_checkpoint(run, monkeypatch):
    run.save_checkpoint({"iteration": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        RuntimeError, match=r"cannot write .*checkpoint-previous\.pt: No space left on device; free space, or"
    ):
        run.save_checkpoint({"iteration": 2})
    assert run.load_checkpoint()["iteration"] == 1
    assert [path.name for path in run.path.iterdir()] == ["checkpoint.pt"]


def test_checkpoint_holds_tensors_and_plain_types_only(run):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    run.save_checkpoint({"iteration": 7, "model": model.state_dict(), "optimizer": optimizer.state_dict()})

    raw = torch.load(run.checkpoint, weights_only=True)
    assert raw["iteration"] == 7
    state = run.load_checkpoint()
    assert torch.equal(state["model"]["weight"], model.weight)
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert [path.name for path in run.path.iterdir()] == ["checkpoint.pt"]  # no temporary file is left


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0.0, 0.999))
def test_truncated_checkpoint_is_one_clear_error(tmp_path_factory, share):
    run = RunFolder.create(tmp_path_factory.mktemp("run"), "stem")
    run.save_checkpoint({"iteration": 3, "weights": torch.arange(500.0)})
    content = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read.*(restore|new run)"):
        run.load_checkpoint()


@pytest.mark.parametrize("content", [{"format": 99}, [1, 2]])
def test_foreign_checkpoint_is_refused(run, content):
    torch.save(content, run.checkpoint)
    with pytest.raises(ValueError, match="not a checkpoint of format 1"):
        run.load_checkpoint()


def test_checkpoint_with_code_in_it_is_refused(run):
    torch.save({"format": 1, "path": Path("/")}, run.checkpoint)  # a pickled class: weights_only refuses it
    with pytest.raises(ValueError, match="cannot be read"):
        run.load_checkpoint()


def test_missing_checkpoint_is_named(run):
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pt is missing"):
        run.load_checkpoint()


def test_metrics_are_one_object_a_line_and_flushed_at_once(run):
    log = MetricsLog(run.metrics)
    log.append({"iteration": 1, "loss": 0.1})
    log.append({"iteration": 2, "loss": 1e-300})
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == read_metrics(run.metrics)
    assert read_metrics(run.metrics)[1] == {"iteration": 2, "loss": 1e-300}
    log.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metrics_refuse_what_json_cannot_hold(run, value):
    log = MetricsLog(run.metrics)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"iteration": 1, "loss": value})
    log.close()


def test_a_full_disk_is_told_with_the_file_and_the_remedy():
    log = MetricsLog(Path("/dev/full"))  # Linux's disk that is always full
    with pytest.raises(OSError, match="cannot write /dev/full: No space left on device; free space, then --resume"):
        log.append({"iteration": 1})
    log.close()


@pytest.mark.parametrize("tail", ['{"iteration": 3, "lo', "{", '{"iteration', "3"])
def test_unfinished_last_row_is_dropped(run, tail):
    run.metrics.write_text('{"iteration": 1}\n{"iteration": 2}\n' + tail)
    assert [row["iteration"] for row in read_metrics(run.metrics)] == [1, 2]


@pytest.mark.parametrize("line", ["{", "[]", "{}", "x"])
def test_damaged_row_is_named(run, line):
    run.metrics.write_text(f'{{"iteration": 1}}\n{line}\n{{"iteration": 2}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
        read_metrics(run.metrics)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20), st.integers(0, 20))
def test_cutting_keeps_the_earlier_rows_exactly(tmp_path_factory, losses, iteration):
    iteration = min(iteration, len(losses))
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    log = MetricsLog(path)
    rows = [{"iteration": number, "loss": loss} for number, loss in enumerate(losses, 1)]
    for row in rows:
        log.append(row)
    log.close()
    kept = rows[:iteration]
    assert cut_metrics(path, iteration) == kept == read_metrics(path)


HOLD_LOCK = """
import sys, time
from pathlib import Path
from maml_fast.train._record import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_process_at_a_time_trains_a_run(run):
    other = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(run.path)], stdout=subprocess.PIPE, text=True)
    with other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(RuntimeError, match="another process"), run.locked():
                pass
        finally:
            other.kill()
    with run.locked():  # the lock died with its holder
        pass


def test_machine_is_described_in_plain_values():
    machine = json.loads(json.dumps(describe_machine()))
    assert machine["torch"] == torch.__version__
    assert machine["cores"] >= 1


class FakeWriter:
    def __init__(self, folder, purge_step=None):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False
        FakeWriter.last = self

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def close(self):
        self.closed = True


def test_a_checkout_is_named_by_its_commit(tmp_path, monkeypatch):
    def no_such_package(name):
        raise record.metadata.PackageNotFoundError(name)

    def git(*arguments):
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(record.metadata, "version", no_such_package)
    monkeypatch.setattr(record, "__file__", str(tmp_path / "maml_fast" / "train" / "record.py"))
    assert describe_machine()["maml_fast"] == "not installed"
    git("init", "--quiet")
    assert describe_machine()["maml_fast"] == "not installed"  # there is no commit
    (tmp_path / "file").write_text("old")
    git("add", "file")
    git("commit", "--quiet", "--message", "a file")
    assert describe_machine()["maml_fast"] == f"checkout {git('rev-parse', '--short', 'HEAD')}"
    (tmp_path / "file").write_text("new")
    assert describe_machine()["maml_fast"].endswith("-dirty")


@pytest.fixture
def tensorboard(monkeypatch):
    """A stand-in for the optional package."""
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: module if name == "tensorboard" else real(name))


def test_rows_reach_tensorboard_where_it_is_installed(run, tensorboard):
    log = MetricsLog(run.metrics, Board(run.path, 4))
    log.append({"iteration": 5, "loss": 0.5, "query_accuracy": 0.25, "episodes_per_second": 9.0})
    log.append({"iteration": 5, "split": "test", "accuracy": 0.75, "interval": 0.01})
    log.close()
    writer = FakeWriter.last
    assert (writer.folder, writer.purge_step, writer.closed) == (str(run.path), 5, True)
    assert writer.scalars == [
        ("train/loss", 0.5, 5),
        ("train/query_accuracy", 0.25, 5),
        ("train/episodes_per_second", 9.0, 5),
        ("test/accuracy", 0.75, 5),
        ("test/interval", 0.01, 5),
    ]


def test_no_tensorboard_no_trouble(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    board = Board(run.path, 0)
    board.append({"iteration": 1, "loss": 0.5, "query_accuracy": 0.25, "episodes_per_second": 9.0})
    board.close()
    assert list(run.path.iterdir()) == []


def test_broken_tensorboard_is_said_once(run, monkeypatch, tensorboard):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it raises ImportError
    with pytest.warns(RuntimeWarning, match="tensorboard is installed but cannot be used"):
        board = Board(run.path, 0)
    board.append({"iteration": 1, "loss": 0.5, "query_accuracy": 0.25, "episodes_per_second": 9.0})
    board.close()

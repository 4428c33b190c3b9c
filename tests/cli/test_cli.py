from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result
from tiny_run import assert_same_run

from maml_fast import data, native
from maml_fast.cli import main
from maml_fast.cli._console import ConsoleReporter
from maml_fast.cli._run_options import as_arguments
from maml_fast.native import BuildReport
from maml_fast.train._config import TrainConfig
from maml_fast.train._metrics import read_metrics
from maml_fast.train._options import options_of
from maml_fast.train._record import RunFolder

TINY = shlex.split(
    "--dataset random --image-size 16 --n-way 3 --k-query 2 --meta-batch-size 2 --hidden 4 --eval-every 2 "
    "--eval-episodes 2 --test-episodes 4 --eval-inner-steps 1 --threads 1 --seed 5"
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_one_line_error(result: Result, text: str) -> None:
    assert result.exit_code == 2
    assert result.stderr.startswith("maml-fast: error: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Result]:
    """A run without --out, and what the command printed."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = call("train", *TINY, "--iterations", 2)
    assert result.exit_code == 0, result.output
    return folder / "runs" / "random-3w1s-001", result


@pytest.fixture
def run(trained) -> Path:
    return trained[0]


def test_every_argument_of_a_run_has_an_option_and_its_help():
    text = "".join(call("train", "--help-all").output.split())  # lines may break at hyphens
    for name, option in options_of(TrainConfig).items():
        assert f"--{name.replace('_', '-')}" in text
        assert "".join(option.help.split()) in text


def test_help_of_train_fits_a_screen_and_names_every_option():
    text = call("train", "--help").output
    assert len(text.splitlines()) <= 60  # of 80 columns
    assert {f"--{name.replace('_', '-')}" for name in options_of(TrainConfig)} <= set(re.findall(r"--[a-z-]+", text))


def test_arguments_reach_another_process_as_they_were_given():
    given = {"n_way": 3, "rotate": False, "inner_lr": 0.1, "root": None, "model_args": {"hidden": 5, "norm": "a,b"}}
    got = {}
    command = click.Command("train", params=main.commands["train"].params, callback=lambda **values: got.update(values))
    command.main(as_arguments(given), standalone_mode=False)
    assert {name: got[name] for name in given} == given


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("hidden=64, norm=group", {"hidden": 64, "norm": "group"}),
        ("rates=[0.1],deep=True,top=none", {"rates": [0.1], "deep": True, "top": "none"}),
        ('{"sizes": [1, 2]}', {"sizes": [1, 2]}),
    ],
)
def test_arguments_of_an_own_net(text, arguments):
    (option,) = (each for each in main.commands["train"].params if each.name == "model_args")
    assert option.type.convert(text, option, None) == arguments


COMMANDS = [
    "train",
    "recipes",
    "reproduce",
    "evaluate",
    "report",
    "adapt",
    "predict",
    "prepare",
    "build",
    "doctor",
    "bench",
]


def test_commands_are_listed_in_the_order_of_use():
    assert list(main.commands) == COMMANDS == main.list_commands(click.Context(main))


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_train_says_what_runs_and_where_its_record_is(trained):
    path, result = trained
    for text in (
        "backend",
        str(native.backend()),
        "fused",
        "batch norm",
        "split",
        "first-1200",
        "runs/random-3w1s-001",
    ):
        assert text in result.stdout
    assert "test accuracy" in result.stdout
    assert "waiting for episodes" in result.stdout
    assert (path / "learning_curve.png").is_file()
    assert result.stderr == ""


@pytest.mark.usefixtures("plain_pictures")
@pytest.mark.parametrize(("given", "kept"), [("5", 5), ("auto", "auto")])
def test_chunk_of_tasks(tmp_path, given, kept):
    result = call("train", *TINY, "--iterations", 1, "--task-chunk", given, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert RunFolder(tmp_path / "run").read_config()["arguments"]["task_chunk"] == kept


@pytest.mark.usefixtures("plain_pictures")
def test_train_prints_a_line_now_and_then_without_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr("maml_fast.cli._console.LINE_SECONDS", 0.0)
    result = call("train", *TINY, "--iterations", 3, "--out", tmp_path / "run")
    lines = [line for line in result.stdout.splitlines() if "episodes/s" in line]
    assert len(lines) == 3
    assert lines[-1].startswith("iteration 3/3  loss ")
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--n-way", "1"], "n_way must be at least 2, got 1"),
        (["--n-way", "many"], "'many' is not a valid integer"),
        (["--order", "3"], "'--order'"),
        (["--task-chunk", "some"], "'some' is neither a whole number nor 'auto'"),
        (["--model", "conv5"], "or a class of your own as package.module:Class or file.py:Class; got 'conv5'"),
        (["--model", "no_such:Net"], "import no_such raises ModuleNotFoundError"),
        (["--model-args", "hidden"], "'hidden' is not name=value"),
        (["--model-args", "{1}"], "is no JSON object"),
        (["--task-chunk", "0"], "task_chunk must be a whole number of tasks from 1 to 2**31 - 1, 'auto', or None"),
        (["--dataset", "imagenet"], "'imagenet' is not one of"),
        (["--inner-lr", "nan"], "inner_lr must be finite"),
        (["--dataset", "omniglot"], "--root"),
        (["--dataset", "omniglot", "--root", "/nonexistent"], "/nonexistent"),
        (["--dataset", "folder", "--root", "/nonexistent"], "/nonexistent"),
        (["--k-query", "25"], "k_shot + k_query is 1 + 25 = 26"),
        (["--no-such-option"], "--no-such-option"),
        (["--resume", "/nonexistent"], "/nonexistent is not a run folder"),
    ],
)
def test_bad_input_is_one_line_before_any_work(tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    assert_one_line_error(call("train", *arguments), text)
    assert list(tmp_path.glob("runs/*")) == []


def test_out_that_is_taken(run):
    assert_one_line_error(call("train", *TINY, "--out", run), f"{run} is not empty")
    assert_one_line_error(call("train", "--out", run / "config.json"), "is a file, not a folder")
    assert_one_line_error(call("train", "--out", run / "config.json" / "run"), "cannot write the run folder")
    assert_one_line_error(call("train", "--out", "elsewhere", "--resume", run), "can't be combined")


def test_unknown_command():
    assert_one_line_error(call("trian"), "No such command 'trian'")


def test_debug_shows_the_traceback():
    for arguments in (["--debug", "train", "--n-way", "1"], ["train", "--n-way", "1", "--debug"]):
        result = call(*arguments)
        assert isinstance(result.exception, ValueError)
        assert result.exit_code == 1


def test_conflicting_resume_names_the_arguments(run):
    result = call("train", "--resume", run, "--seed", 6, "--inner-lr", 0.1, "--n-way", 3)
    assert_one_line_error(result, "inner_lr (run: 0.4, asked: 0.1), seed (run: 5, asked: 6)")


@pytest.mark.usefixtures("plain_pictures")
def test_resume_with_more_iterations(run, tmp_path):
    path = tmp_path / "run"
    assert call("train", *TINY, "--iterations", 1, "--out", path).exit_code == 0
    result = call("train", "--resume", path, "--iterations", 2)
    assert result.exit_code == 0, result.output
    assert "resuming after iteration 1" in result.stdout
    assert_same_run(path, run)


def test_evaluate_prints_the_accuracy_with_its_conditions(run):
    result = call("evaluate", run, "--n-episodes", 6, "--inner-steps", 2, "--split", "train", "--seed", 8)
    assert result.exit_code == 0, result.output
    row = json.loads((run / "evaluation-train-2steps-seed8.json").read_text())
    last, by_support = result.stdout.splitlines()[-1], row["by_support"]
    assert last == (
        f"{row['accuracy']:.2%} ± {row['interval']:.2%} on train (6 episodes, 3-way, 2 inner steps, "
        f"batch norm: {row['batch_norm']}); {by_support['accuracy']:.2%} ± {by_support['interval']:.2%} by the support "
        "set's statistics (not transductive)"
    )
    for step, accuracy in enumerate(row["accuracies"]):
        assert any(line.split()[:2] == [str(step), f"{accuracy:.2%}"] for line in result.stdout.splitlines() if line)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/nonexistent"], "/nonexistent is not a run folder"),
        (["RUN", "--split", "val"], "split must be one of train, test; got 'val'"),
        (["RUN", "--n-episodes", "0"], "n_episodes must be from 2 to 1,000,000,000, got 0"),
        (["RUN", "--inner-steps", "-1"], "inner_steps must be from 0 to 1,000,000, got -1"),
        ([], "Missing argument 'RUN'"),
    ],
)
def test_bad_evaluations(run, arguments, text):
    assert_one_line_error(call("evaluate", *(str(run) if a == "RUN" else a for a in arguments)), text)


def test_report_of_runs(run, tmp_path):
    result = call("report", run, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'page.html'}\n"
    assert run.name in (tmp_path / "page.html").read_text()
    assert_one_line_error(call("report", run, "--out", tmp_path / "page.html"), "exists already")
    assert_one_line_error(call("report"), "Missing argument 'RUNS...'")


def test_prepare(tmp_path, monkeypatch):
    calls = []

    def fake(root, out, *, download, progress):
        calls.append((root, out, download))
        progress(1, 2)
        progress(2, 2)
        return tmp_path / "omniglot.npy"

    monkeypatch.setattr(data, "prepare_omniglot", fake)
    result = call("prepare", "omniglot", "--root", tmp_path, "--download")
    assert result.stdout == f"{tmp_path / 'omniglot.npy'}\n"
    assert calls == [(tmp_path, None, True)]


def test_prepare_names_what_is_missing(tmp_path):
    assert_one_line_error(call("prepare", "omniglot", "--root", tmp_path), str(tmp_path))
    assert_one_line_error(call("prepare", "omniglot"), "Missing option '--root'")
    assert_one_line_error(call("prepare", "imagenet", "--root", tmp_path), "'imagenet' is not")


@pytest.mark.parametrize(("cached", "text"), [(True, "in the cache already"), (False, "built in 1.5 s")])
def test_build(monkeypatch, cached, text):
    asked = []

    def fake(verbose, *, force):
        asked.append((verbose, force))
        return BuildReport(Path("lib.so"), 1.5, cached)

    monkeypatch.setattr(native, "build", fake)
    result = call("build", "--force")
    assert result.stdout == f"lib.so  ({text})\n"
    assert asked == [(False, True)]


def test_build_that_fails_is_one_line(monkeypatch):
    def fail(verbose, *, force):
        raise RuntimeError("no C++ compiler was found: install g++")

    monkeypatch.setattr(native, "build", fail)
    assert_one_line_error(call("build"), "no C++ compiler was found: install g++")


def test_doctor():
    result = call("doctor")
    assert result.exit_code == 0, result.output
    assert torch.__version__ in result.stdout


def test_bench_hands_its_arguments_on(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr("maml_fast.cli._benchmark.run", lambda **arguments: given.update(arguments) or 5)
    result = call("bench", "--quick", "--sweeps", "2", "-k", "sampler", "--out", str(tmp_path), "--benchmark-disable")
    assert result.exit_code == 5
    assert given == {
        "quick": True,
        "out": tmp_path,
        "sweeps": 2,
        "seconds": None,
        "workloads": None,
        "peers": None,
        "device": "cpu",
        "precision": "exact",
        "pytest_arguments": ("-k", "sampler", "--benchmark-disable"),
    }


def test_bench_compares_instead_of_running(monkeypatch):
    monkeypatch.setattr("maml_fast.cli._benchmark.run", None)
    monkeypatch.setattr("maml_fast.cli._benchmark.compare", lambda old, new: {"old.json": 1}[str(old)])
    assert call("bench", "--compare", "old.json", "new.json").exit_code == 1


def test_bench_into_a_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line_error(call("bench", "--out", str(tmp_path / "file" / "out")), "choose another with --out")


def start_training(path: Path, *options: str) -> subprocess.Popen:
    """A training without end in a process of its own; returns once it has done four iterations."""
    command = [
        sys.executable,
        "-m",
        "maml_fast",
        "train",
        *TINY,
        *options,
        "--iterations",
        "1000000",
        "--out",
        str(path),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=path.parent,
    )
    while process.poll() is None and len(read_metrics(path / "metrics.jsonl")) < 7:
        time.sleep(0.02)
    if process.poll() is not None:
        raise AssertionError(f"training ended by itself: {process.communicate()}")
    return process


def finish(path: Path) -> None:
    """Resume for two more iterations, and compare with a run that never stopped."""
    iterations = RunFolder(path).load_checkpoint()["iteration"] + 2
    result = call("train", "--resume", path, "--iterations", iterations)
    assert result.exit_code == 0, result.output
    whole = path.with_name("whole")
    assert call("train", *TINY, "--iterations", iterations, "--out", whole).exit_code == 0
    assert_same_run(path, whole)


def assert_stopped(path: Path, errors: str) -> None:
    done = RunFolder(path).load_checkpoint()["iteration"]
    assert done >= 3
    assert errors == f"maml-fast: stopped after iteration {done}; go on with: maml-fast train --resume {path}\n"


@pytest.mark.backendless
@pytest.mark.usefixtures("plain_pictures")
def test_a_stop_keeps_the_checkpoint_and_tells_how_to_go_on(tmp_path):
    path = tmp_path / "run"
    process = start_training(path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert_stopped(path, errors)
    finish(path)


@pytest.mark.backendless
@pytest.mark.usefixtures("plain_pictures")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_any_signal_that_asks_for_a_stop_is_told_in_the_exit_code(tmp_path, monkeypatch, number):
    show = ConsoleReporter.stepped

    def stop_after_four(self, row):
        show(self, row)
        if row["iteration"] == 4:
            signal.raise_signal(number)

    monkeypatch.setattr(ConsoleReporter, "stepped", stop_after_four)
    path = tmp_path / "run"
    result = call("train", *TINY, "--iterations", 6, "--out", path)
    assert result.exit_code == 128 + number
    assert_stopped(path, result.stderr)


@pytest.mark.backendless
@pytest.mark.usefixtures("plain_pictures")
def test_kill_leaves_a_usable_checkpoint(tmp_path):
    path = tmp_path / "run"
    process = start_training(path, "--checkpoint-seconds", "0")
    process.kill()
    process.communicate()
    assert RunFolder(path).load_checkpoint()["iteration"] >= 2
    finish(path)

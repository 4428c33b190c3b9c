"""A run that was stopped goes on bitwise as if it never had been."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import signal

import pytest
import torch
from tiny_run import TINY, Signals, assert_same_run, state, untimed
from torch import nn

from maml_fast.train import Reporter, TrainingInterrupted, resume, train
from maml_fast.train._record import RunFolder

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.mark.parametrize(
    ("moment", "iteration", "times", "kept"),
    [
        ("stepped", 3, 1, 3),
        ("evaluating", 2, 1, 2),  # the evaluation is made up for
        ("evaluated", 4, 1, 4),
        ("evaluating", 0, 1, 0),
        ("evaluating", 6, 1, 6),
        ("stepped", 3, 2, 0),  # a second Ctrl-C breaks into the step: the last checkpoint stays
    ],
)
def test_interrupted_and_resumed_is_bitwise_the_whole(whole, tmp_path, moment, iteration, times, kept):
    run = tmp_path / "run"
    with pytest.raises(TrainingInterrupted, match=rf"iteration {kept}; .*maml-fast train --resume {run}") as stop:
        train(TINY, out=run, reporter=Signals(moment, iteration, times))
    assert (stop.value.iteration, stop.value.signal_number) == (kept, signal.SIGINT)
    assert state(run)["iteration"] == kept
    assert (run / "learning_curve.png").is_file()
    resume(run)
    assert_same_run(run, whole.path)
    sessions = RunFolder(run).read_config()["sessions"]
    assert [session["from_iteration"] for session in sessions] == [0, kept]


def test_modules_that_draw_while_they_train_go_on_where_they_were(tmp_path, monkeypatch):
    def dropping_model(config, image_shape):
        torch.manual_seed(config.seed)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(math.prod(image_shape), config.n_way))

    monkeypatch.setattr("maml_fast.train._workbench.make_model", dropping_model)
    whole = train(TINY, out=tmp_path / "whole").path
    with pytest.raises(TrainingInterrupted):
        train(TINY, out=tmp_path / "run", reporter=Signals("stepped", 3))
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = dataclasses.replace(TINY, iterations=2)
        assert train(config, out=tmp_path / "run", reporter=Signals("stepped", 1)).iterations == 2
    finally:
        signal.signal(signal.SIGINT, before)


def test_resuming_elsewhere_is_said(copy):
    config = json.loads((copy / "config.json").read_text())
    config["sessions"][0]["torch"] = "2.11.0"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.warns(
        RuntimeWarning, match=rf"may differ in rounding: torch 2\.11\.0 -> {re.escape(torch.__version__)}"
    ):
        resume(copy)


@pytest.mark.native
@pytest.mark.parametrize("algorithm", ["maml", "learned-optimizer"])
def test_other_threads_are_said_where_they_change_bits(tmp_path, algorithm):
    """That is, not on the native engine."""
    names = {} if algorithm == "maml" else {"algorithm": algorithm, "order": 1, "learn_inner_lr": False}
    run = train(dataclasses.replace(TINY, iterations=1, **names), out=tmp_path / "run").path
    config = json.loads((run / "config.json").read_text())
    threads = config["sessions"][0]["threads"]
    config["sessions"][0]["threads"] = threads + 5
    (run / "config.json").write_text(json.dumps(config))
    if algorithm == "maml":
        resume(run, iterations=2)  # where a warning is an error
        return
    with pytest.warns(RuntimeWarning, match=rf"may differ in rounding: threads {threads + 5} -> {threads}$"):
        resume(run, iterations=2)


def test_raised_iterations_are_bitwise_the_longer_run(whole, tmp_path):
    run = train(dataclasses.replace(TINY, iterations=3), out=tmp_path / "run").path
    result = resume(run, iterations=6)
    assert_same_run(run, whole.path)
    assert result.evaluation == whole.evaluation
    assert RunFolder(run).read_config()["arguments"]["iterations"] == 6


@pytest.mark.native  # PyTorch's own convolutions give other last bits with other threads
def test_chunks_of_a_run_are_those_it_started_with(tmp_path):
    config = dataclasses.replace(TINY, meta_batch_size=5)
    whole = train(config, out=tmp_path / "whole").path
    with pytest.raises(TrainingInterrupted):
        train(config, out=tmp_path / "run", reporter=Signals("stepped", 3))
    resume(tmp_path / "run", threads=2)  # where it would be other chunks
    assert_same_run(tmp_path / "run", whole)
    assert RunFolder(tmp_path / "run").read_config()["arguments"]["task_chunk"] == "auto"
    other = train(dataclasses.replace(config, task_chunk=None, iterations=3), out=tmp_path / "other").path
    assert RunFolder(other).read_config()["arguments"]["task_chunk"] is None
    assert untimed(other)[1]["loss"] == pytest.approx(untimed(whole)[1]["loss"], rel=1e-5)


def test_rows_after_the_checkpoint_are_cut(whole, tmp_path):
    class Die(Reporter):
        def stepped(self, row):
            if row["iteration"] == 5:
                raise ZeroDivisionError  # as good as a kill: nothing is saved

    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(TINY, out=run, reporter=Die())
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 6, "lo')
    assert state(run)["iteration"] == 0
    resume(run)
    assert_same_run(run, whole.path)


def test_a_complete_run_may_be_resumed(whole, copy):
    (copy / "learning_curve.png").unlink()
    result = resume(copy)
    assert result.evaluation == whole.evaluation
    assert (copy / "learning_curve.png").is_file()
    assert_same_run(copy, whole.path)


def test_conflicting_arguments_are_all_named(copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(ValueError, match=r"seed \(run: 3, asked: 9\), order|order .*, seed \(run: 3, asked: 9\)"):
        resume(copy, seed=9, order=1, n_way=TINY.n_way, iterations=7)
    assert before == {path.name: path.read_bytes() for path in copy.iterdir()}


def test_iterations_cannot_go_back(copy):
    with pytest.raises(ValueError, match=r"iterations 5 is less than the 6"):
        resume(copy, iterations=5)


def test_run_survives_a_move_of_its_data(tmp_path, class_folders):
    config = dataclasses.replace(TINY, dataset="folder", root=class_folders, iterations=1, k_query=1)
    run = train(config, out=tmp_path / "run").path
    moved = class_folders.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="数据"):
        resume(run)
    assert resume(run, root=moved).iterations == 1
    (moved / "train" / "train-c" / "0.png").write_bytes((moved / "train" / "train-c" / "1.png").read_bytes())
    with pytest.raises(ValueError, match="the data differ from those of"):
        resume(run)

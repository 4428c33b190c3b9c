"""Many processes, one run: gone on with by others, stopped, killed, or not alike."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import pytest
from ranks import EIGHT, IN_ORDER, kill_in_iteration, send_in_iteration
from tiny_run import TINY, assert_same_run, state

from maml_fast.train import _trainer as trainer
from maml_fast.train import evaluate_run, resume, train
from maml_fast.train._record import RunFolder

pytestmark = [pytest.mark.usefixtures("plain_pictures"), pytest.mark.backendless]


def test_resumed_by_another_number_of_processes(ranks, tmp_path, alone):
    short = dataclasses.replace(IN_ORDER, iterations=3)
    ranks.succeed(3, lambda rank: train(short, out=tmp_path / "run"))
    ranks.succeed(2, lambda rank: resume(tmp_path / "run", iterations=5))
    resume(tmp_path / "run", iterations=6)
    assert_same_run(tmp_path / "run", alone)
    sessions = RunFolder(tmp_path / "run").read_config()["sessions"]
    assert [session["processes"] for session in sessions] == [3, 2, 1]


def test_another_number_of_processes_is_said_where_it_changes_bits(ranks, tmp_path):
    ranks.succeed(2, lambda rank: train(dataclasses.replace(EIGHT, iterations=1), out=tmp_path / "run"))
    with pytest.warns(RuntimeWarning, match="may differ in rounding: processes 2 -> 1"):
        resume(tmp_path / "run", iterations=2)


@pytest.mark.parametrize("asked", [{"n_episodes": 2}, {"n_episodes": 10}, {"n_episodes": 10, "n_way": 4}])
def test_an_evaluation_is_of_the_same_episodes(ranks, alone, asked):
    """By both kinds of statistics; two episodes leave the third process idle."""
    expected = evaluate_run(alone, **asked)
    assert expected["by_support"] is not None
    ranks.succeed(3, lambda rank: check(evaluate_run(alone, **asked) == expected))


def check(so: bool) -> None:
    assert so


def test_fewer_tasks_than_processes_are_refused(ranks, tmp_path):
    for ended in ranks(3, lambda rank: train(TINY, out=tmp_path / "run")):
        assert "ValueError: meta_batch_size 2 leaves some of 3 processes without an episode" in ended.told
    assert not (tmp_path / "run").exists()


def test_other_arguments_are_refused(ranks, tmp_path):
    ends = ranks(2, lambda rank: train(dataclasses.replace(EIGHT, seed=rank), out=tmp_path / "run"))
    assert "ValueError: the arguments on rank 1 (process " in ends[0].told


@pytest.mark.parametrize(("number", "rank_stopped"), [(signal.SIGINT, 1), (signal.SIGTERM, 0), (signal.SIGTERM, 2)])
def test_a_signal_to_one_stops_all_after_the_same_iteration(ranks, tmp_path, alone, number, rank_stopped):
    def task(rank):
        if rank == rank_stopped:
            send_in_iteration(number, 3)
        train(IN_ORDER, out=tmp_path / "run")

    ends = ranks(3, task)
    for ended in ends:
        assert "TrainingInterrupted: stopped after iteration" in ended.told
    assert "stopped after iteration 4; go on with: maml-fast train --resume" in ends[0].told
    assert state(tmp_path / "run")["iteration"] == 4
    ranks.succeed(2, lambda rank: resume(tmp_path / "run"))
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_is_named_and_its_run_goes_on(ranks, tmp_path, alone, victim):
    config = dataclasses.replace(IN_ORDER, checkpoint_seconds=0)

    def task(rank):
        if rank == victim:
            kill_in_iteration(3)
        train(config, out=tmp_path / "run")

    ends = ranks(3, task)
    assert ends[victim].exitcode == -signal.SIGKILL
    for ended in (end for rank, end in enumerate(ends) if rank != victim):
        assert f"PeerLostError: rank {victim} (process " in ended.told
    assert state(tmp_path / "run")["iteration"] == 3
    assert resume(tmp_path / "run").iterations == 6
    assert_same_run(tmp_path / "run", alone)


def test_a_disk_that_only_the_first_process_sees(ranks, tmp_path, alone):
    """The others write nothing, and need not find the run that they go on with."""

    def task(rank):
        disk = tmp_path / f"disk {rank}"
        disk.mkdir()
        os.chdir(disk)
        train(dataclasses.replace(IN_ORDER, iterations=3), out="run")
        resume("run", iterations=6)
        evaluate_run("run", n_episodes=4)

    ranks.succeed(2, task)
    assert_same_run(tmp_path / "disk 0" / "run", alone)
    assert list((tmp_path / "disk 1").iterdir()) == []


def test_data_that_one_process_lacks_are_named(ranks, tmp_path, class_folders):
    def task(rank):
        root = class_folders if rank == 0 else tmp_path / "elsewhere"
        config = dataclasses.replace(EIGHT, dataset="folder", root=root, k_query=1)
        train(config, out=tmp_path / "run")

    ends = ranks(2, task)
    assert "PeerFailedError: rank 1 (process " in ends[0].told
    assert "elsewhere" in ends[0].told
    assert "FileNotFoundError" in ends[1].told
    assert not (tmp_path / "run").exists()


def test_data_that_differ_are_refused(ranks, tmp_path, class_folders):
    other = Path(shutil.copytree(class_folders, tmp_path / "other"))
    (other / "train" / "train-c" / "0.png").write_bytes((other / "train" / "train-c" / "1.png").read_bytes())

    def task(rank):
        root = other if rank else class_folders
        train(dataclasses.replace(EIGHT, dataset="folder", root=root, k_query=1), out=tmp_path / "run")

    assert "the data on rank 1" in ranks(2, task)[0].told


def test_parameters_that_came_apart_are_noticed(ranks, tmp_path, monkeypatch):
    def task(rank):
        monkeypatch.setattr(trainer, "digest_of_parameters", lambda _: rank)
        train(EIGHT, out=tmp_path / "run")

    assert "ValueError: the parameters on rank 1" in ranks(2, task)[0].told

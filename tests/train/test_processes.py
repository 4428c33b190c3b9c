"""Many processes, one run: real ones over loopback, which must come to what one process comes to."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from ranks import kill_in_iteration, send_in_iteration
from small import make_episodes, two_blocks
from tiny_run import TIMES, TINY, assert_same_run, state, untimed
from torch import nn

import maml_fast as mf
from maml_fast.algorithms import ALGORITHMS
from maml_fast.distributed.group import Group
from maml_fast.distributed.joining import joined
from maml_fast.train import TrainConfig, evaluate_run, resume, train
from maml_fast.train.meta_gradient import make_gradient
from maml_fast.train.record import RunFolder

pytestmark = pytest.mark.usefixtures("plain_pictures")

EIGHT = dataclasses.replace(TINY, meta_batch_size=8, eval_episodes=10, test_episodes=10)
IN_ORDER = dataclasses.replace(EIGHT, fixed_order=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run that processes are held against; not to be changed."""
    return train(IN_ORDER, out=tmp_path_factory.mktemp("alone") / "run").path


# what one process comes to


@pytest.mark.parametrize("size", [2, 3])
def test_in_order_every_bit_is_one_process_s(ranks, tmp_path, alone, size):
    """Eight tasks on three processes: three, three and two."""
    ranks.succeed(size, lambda rank: train(IN_ORDER, out=tmp_path / "run"))
    assert_same_run(tmp_path / "run", alone)
    assert result(tmp_path / "run") == result(alone)
    record = RunFolder(tmp_path / "run").read_config()
    assert record["facts"]["processes"] == f"{size} on 1 machine, by gloo, 1 thread each"
    assert "the same bits on any number of processes" in record["facts"]["gradients"]
    assert [(each["processes"], each["threads"]) for each in record["sessions"]] == [(size, 1)]


@pytest.mark.native  # where a task's bits do not depend on those beside it
def test_in_order_the_native_engine_comes_to_what_it_comes_to_in_one_call(tmp_path):
    """As long as no rate is several parameters' own: those it adds up in another order."""
    config = dataclasses.replace(EIGHT, learn_inner_lr=False)
    runs = [train(dataclasses.replace(config, fixed_order=it), out=tmp_path / str(it)).path for it in (False, True)]
    assert_same_run(*runs)


def result(run: Path) -> dict:
    summary = json.loads(RunFolder(run).summary.read_text())
    return {name: value for name, value in summary["evaluation"].items() if name not in TIMES}


def test_without_an_order_all_is_one_process_s_but_for_rounding(ranks, tmp_path, alone):
    ranks.succeed(3, lambda rank: train(EIGHT, out=tmp_path / "run"))
    ours, theirs = ([row["loss"] for row in untimed(run) if "loss" in row] for run in (tmp_path / "run", alone))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert "but for rounding" in RunFolder(tmp_path / "run").read_config()["facts"]["gradients"]


CLOSE = {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize("in_order", [False, True])
def test_two_hundred_iterations_agree_in_float64(ranks, tmp_path, in_order):
    def trained(group: Group) -> list[torch.Tensor]:
        maml = mf.MAML(two_blocks(), 0.1, 1)
        optimiser = maml.make_optimiser(1e-3)
        gradient = make_gradient(maml, group, 5, in_order=in_order)
        share = group.share(5)
        told = []
        for iteration in range(200):
            whole = make_episodes(5, seed=iteration)
            optimiser.zero_grad()
            told.append(torch.stack([*gradient(mf.Episodes(*(x[share.start : share.stop] for x in whole)))]))
            optimiser.step()
        return [torch.stack(told), *(parameter.detach() for parameter in maml.parameters())]

    alone = trained(Group())

    def task(rank):
        with joined() as group:
            for ours, theirs in zip(trained(group), alone, strict=True):
                torch.testing.assert_close(ours, theirs, **({"rtol": 0, "atol": 0} if in_order else CLOSE))

    ranks.succeed(2, task)


SETTINGS = {
    "maml++": {"batch_norm": "per_step_running", "multi_step_iterations": 4},
    "reptile": {"meta_lr": 0.5, "inner_lr": 0.01, "inner_steps": 2, "inner_batch": 4},
    "learned-optimiser": {"order": 1},
    "meta-lstm": {"order": 1},
}


def config_of(algorithm: str) -> TrainConfig:
    ignored = {name: TrainConfig.__dataclass_fields__[name].default for name in ALGORITHMS[algorithm].ignores}
    changes = {"learn_inner_lr": False, "iterations": 2, "meta_batch_size": 3, "algorithm": algorithm}
    return dataclasses.replace(TINY, **{**changes, **ignored, **SETTINGS.get(algorithm, {})})


def test_every_algorithm_in_order(ranks, tmp_path):
    """With what it keeps beside its parameters: running statistics, an inner optimiser's memory."""
    configs = {name: dataclasses.replace(config_of(name), fixed_order=True) for name in ALGORITHMS}
    for name, config in configs.items():
        train(config, out=tmp_path / f"{name} alone")
    ranks.succeed(2, lambda rank: [train(config, out=tmp_path / name) for name, config in configs.items()])
    for name in configs:
        assert_same_run(tmp_path / name, tmp_path / f"{name} alone")


def numbers_of(algorithm: str, group: Group, in_order: bool) -> list[torch.Tensor]:
    """What three meta-batches give: losses and accuracies, gradients, and what is kept beside the parameters."""
    net = two_blocks(None if algorithm == "protonet" else 5)
    learner = ALGORITHMS[algorithm].make(net, config_of(algorithm).learner_settings).double()
    gradient = make_gradient(learner, group, 3, in_order=in_order)
    share, told = group.share(3), []
    torch.manual_seed(0)
    for iteration in range(3):
        learner.zero_grad()
        whole = make_episodes(3, seed=iteration)
        told += gradient(mf.Episodes(*(x[share.start : share.stop] for x in whole)))
        told += [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
    return [*told, *(buffer.double() for buffer in learner.buffers())]


@pytest.mark.parametrize("in_order", [False, True])
def test_every_algorithm_but_for_rounding(ranks, in_order):
    """Reptile's Adam makes more of it."""
    alone = {name: numbers_of(name, Group(), in_order=False) for name in ALGORITHMS}

    def task(rank):
        with joined() as group:
            for name, expected in alone.items():
                for ours, theirs in zip(numbers_of(name, group, in_order), expected, strict=True):
                    atol = 1e-7 if name == "reptile" else 1e-10
                    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=atol, check_dtype=False, msg=name)

    ranks.succeed(2, task)


def test_random_numbers_of_a_model_are_the_same_in_order(ranks, tmp_path, monkeypatch):
    def dropping_model(config, image_shape):
        torch.manual_seed(config.seed)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16 * 16, config.n_way))

    monkeypatch.setattr("maml_fast.train.workbench.make_model", dropping_model)
    whole = train(IN_ORDER, out=tmp_path / "alone").path
    ranks.succeed(3, lambda rank: train(IN_ORDER, out=tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


# going on, and evaluating


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


@pytest.mark.parametrize("episodes", [2, 10])
def test_an_evaluation_is_of_the_same_episodes(ranks, tmp_path, alone, episodes):
    """Two of them leave the third process idle."""
    expected = evaluate_run(alone, episodes=episodes)
    ranks.succeed(3, lambda rank: check(evaluate_run(alone, episodes=episodes) == expected))


def check(so: bool) -> None:
    assert so


# what goes wrong


def test_fewer_tasks_than_processes_are_refused(ranks, tmp_path):
    for ended in ranks(3, lambda rank: train(TINY, out=tmp_path / "run")):
        assert "ValueError: meta_batch_size 2 leaves some of 3 processes without an episode" in ended.told
    assert not (tmp_path / "run").exists()


def test_other_arguments_are_refused(ranks, tmp_path):
    ends = ranks(2, lambda rank: train(dataclasses.replace(EIGHT, seed=rank), out=tmp_path / "run"))
    assert "ValueError: the arguments on rank 1 (process " in ends[0].told


@pytest.mark.parametrize("rank_stopped", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
        evaluate_run("run", episodes=4)

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
    from maml_fast.train import trainer

    def task(rank):
        monkeypatch.setattr(trainer, "digest_of_parameters", lambda _: rank)
        train(EIGHT, out=tmp_path / "run")

    assert "ValueError: the parameters on rank 1" in ranks(2, task)[0].told

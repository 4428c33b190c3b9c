"""Many processes, one run: real ones over loopback, which must come to what one process comes to."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
from ranks import EIGHT, IN_ORDER, send_in_iteration
from small import make_episodes, two_blocks
from tiny_run import TIMES, TINY, assert_same_run, state, untimed
from torch import nn

import maml_fast as mf
from maml_fast.algorithms import ALGORITHMS
from maml_fast.distributed._group import Group
from maml_fast.distributed._joining import joined
from maml_fast.inner_loop._heads import HEADS
from maml_fast.train import TrainConfig, resume, train
from maml_fast.train._meta_gradient import make_gradient
from maml_fast.train._record import RunFolder

pytestmark = pytest.mark.usefixtures("plain_pictures")


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


@pytest.mark.backendless  # how processes share tasks and add gradients does not depend on who computes them
def test_two_hundred_iterations_agree_in_float64(ranks):
    def trained(group: Group) -> list[torch.Tensor]:
        maml = mf.MAML(two_blocks(), inner_lr=0.1, inner_steps=1)
        optimizer = torch.optim.SGD(maml.parameters(), 0.05)
        gradient = make_gradient(maml, group, 5, in_order=False)
        share = group.share(5)
        told = []
        for iteration in range(200):
            whole = make_episodes(5, seed=iteration)
            optimizer.zero_grad()
            told.append(torch.stack([*gradient(mf.Episodes(*(x[share.start : share.stop] for x in whole)))]))
            optimizer.step()
        return [torch.stack(told), *(parameter.detach() for parameter in maml.parameters())]

    alone = trained(Group())

    def task(rank):
        with joined() as group:
            for ours, theirs in zip(trained(group), alone, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)

    ranks.succeed(2, task)


SETTINGS = {
    "maml++": {"batch_norm": "per_step_running", "multi_step_iterations": 4},
    "reptile": {"meta_lr": 0.5, "inner_lr": 0.01, "inner_steps": 2, "inner_batch": 4},
    "learned-optimizer": {"order": 1},
    "meta-lstm": {"order": 1},
}


def config_of(algorithm: str) -> TrainConfig:
    ignored = {name: TrainConfig.__dataclass_fields__[name].default for name in ALGORITHMS[algorithm].ignores}
    fewer = {"iterations": 2, "meta_batch_size": 3, "eval_every": 10, "eval_episodes": 2, "test_episodes": 2}
    return dataclasses.replace(
        TINY, algorithm=algorithm, **{"learn_inner_lr": False, **fewer, **ignored, **SETTINGS.get(algorithm, {})}
    )


def test_every_algorithm_in_order(ranks, tmp_path):
    """With what it keeps beside its parameters: running statistics, an inner optimizer's memory."""
    configs = {name: dataclasses.replace(config_of(name), fixed_order=True) for name in ALGORITHMS}
    for name, config in configs.items():
        train(config, out=tmp_path / f"{name} alone")
    ranks.succeed(2, lambda rank: [train(config, out=tmp_path / name) for name, config in configs.items()])
    for name in configs:
        assert_same_run(tmp_path / name, tmp_path / f"{name} alone")


@pytest.mark.backendless  # a classifier is made and resized before any backend sees it
def test_every_head_in_order(ranks, tmp_path):
    """Evaluated at another number of classes, for which every process resizes the classifier by itself."""
    few = dataclasses.replace(config_of("maml"), fixed_order=True, eval_n_way=4)
    configs = {head: dataclasses.replace(few, head=head) for head in HEADS}
    for head, config in configs.items():
        train(config, out=tmp_path / f"{head} alone")
    ranks.succeed(2, lambda rank: [train(config, out=tmp_path / head) for head, config in configs.items()])
    for head in configs:
        assert_same_run(tmp_path / head, tmp_path / f"{head} alone")


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

    monkeypatch.setattr("maml_fast.train._workbench.make_model", dropping_model)
    whole = train(IN_ORDER, out=tmp_path / "alone").path
    ranks.succeed(3, lambda rank: train(IN_ORDER, out=tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("algorithm", ["maml++", "reptile"])
def test_a_stop_in_the_middle_of_a_meta_batch_undoes_what_it_had_moved(ranks, tmp_path, algorithm):
    config = dataclasses.replace(config_of(algorithm), fixed_order=True, iterations=3)

    def task(rank):
        if rank == 1:
            send_in_iteration(signal.SIGINT, 1)
        train(config, out=tmp_path / "run")

    ranks(2, task)
    assert state(tmp_path / "run")["iteration"] == 2
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", train(config, out=tmp_path / "whole").path)

"""Runs of every algorithm: they train, go on bitwise after a stop, and refuse what means nothing to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_run import TINY, assert_same_run

from maml_fast.algorithms import ALGORITHMS
from maml_fast.cli import main
from maml_fast.data import load
from maml_fast.data._dataset import DataSet
from maml_fast.train import Reporter, TrainConfig, resume, train
from maml_fast.train._metrics import read_metrics
from maml_fast.train._recipes import DEFAULTS, RECIPES
from maml_fast.train._record import RunFolder
from maml_fast.train._schedule import SCHEDULES

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.fixture
def root(tmp_path_factory) -> Path:
    """Noise of Omniglot's shape."""
    root = tmp_path_factory.mktemp("omniglot")
    np.save(root / "omniglot.npy", np.random.default_rng(0).integers(0, 256, (1623, 20, 1, 28, 28), dtype=np.uint8))
    return root


def tiny(algorithm: str, **changes: object) -> TrainConfig:
    """A run of a few seconds; what the algorithm has no use for is left at its default."""
    settings = dataclasses.asdict(TINY) | {"algorithm": algorithm, "learn_inner_lr": False} | changes
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    return TrainConfig(**settings | {name: defaults[name] for name in ALGORITHMS[algorithm].ignores})


class Die(Reporter):
    """Ends a run."""

    def stepped(self, row: dict) -> None:
        if row["iteration"] == 3:
            raise ZeroDivisionError


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_goes_on_bitwise_and_its_record_names_the_algorithm(algorithm: str, tmp_path) -> None:
    config = tiny(algorithm, checkpoint_seconds=0.0, meta_schedule="linear")
    whole = train(config, out=tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(config, out=tmp_path / "run", reporter=Die())
    assert resume(tmp_path / "run").evaluation == whole.evaluation
    assert_same_run(tmp_path / "run", whole.path)
    record = RunFolder(whole.path).read_config()
    assert record["facts"]["algorithm"] == ALGORITHMS[algorithm].title
    assert ALGORITHMS[algorithm].title in config.title


@pytest.fixture(scope="module")
def characters() -> DataSet:
    return load("strokes", image_size=16)


LEARNING = {
    "n_way": 5,
    "k_query": 5,
    "meta_batch_size": 8,
    "hidden": 16,
    "iterations": 30,
    "eval_every": 80,
    "eval_episodes": 40,
    "test_episodes": 60,
    "meta_lr": 1e-2,
}
LEARNERS = {
    "fomaml": {"iterations": 80},
    "anil": {"iterations": 80},
    "meta-sgd": {},
    "maml++": {},
    "protonet": {},
    "reptile": {"inner_lr": 3e-3, "meta_lr": 1.0, "k_query": 4, "eval_inner_steps": 10, "iterations": 60},
}


@pytest.mark.backendless
@pytest.mark.parametrize(("algorithm", "changes"), LEARNERS.items(), ids=LEARNERS)
def test_training_learns_the_drawn_characters(
    algorithm: str, changes: dict, characters: DataSet, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("maml_fast.train._workbench.load", lambda *_, **__: characters)
    result = train(tiny(algorithm, dataset="strokes", **LEARNING | changes), out=tmp_path / "run")
    first, *_ = (row for row in read_metrics(RunFolder(result.path).metrics) if "accuracy" in row)
    last = result.evaluation
    assert last["accuracy"] - last["interval"] > max(first["accuracy"] + first["interval"], 0.3)


REFUSED = [
    ({"algorithm": "protonet", "inner_lr": 0.3}, "inner_lr 0.3 is not an option of algorithm protonet; leave it out"),
    ({"algorithm": "anil", "adapted": "features"}, "adapted 'features' is not an option of algorithm anil"),
    ({"algorithm": "maml", "distance": "cosine"}, "distance 'cosine' is not an option of algorithm maml"),
    ({"algorithm": "boil", "eval_n_way": 20}, "eval_n_way 20 is not n_way 5, but boil has a classifier"),
    ({"algorithm": "mamll"}, "algorithm must be one of maml, fomaml"),
    ({"algorithm": "protonet", "distance": "far"}, "distance must be one of euclidean, cosine"),
    ({"algorithm": "protonet", "clip_norm": 0.0}, "clip_norm must be finite and above 0, got 0.0"),
    (
        {"algorithm": "protonet", "batch_norm": "per_step"},
        "batch_norm 'per_step' is not an option of algorithm",
    ),
    ({"batch_norm": "running"}, "batch_norm must be one of batch, per_step, per_step_running; got 'running'"),
    ({"inner_optimizer": "lbfgs"}, "inner_optimizer must be one of sgd, adam; got 'lbfgs'"),
    ({"multi_step_iterations": -1}, "multi_step_iterations must be at least 0, got -1"),
    ({"meta_schedule": "exponential"}, "meta_schedule must be one of constant, linear, cosine, halving"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_means_nothing_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**arguments)


def test_a_data_sets_defaults_are_taken_as_far_as_they_mean_something(monkeypatch) -> None:
    monkeypatch.setitem(DEFAULTS, "strokes", {"inner_lr": 0.05, "hidden": 48})
    assert TrainConfig.for_dataset("strokes").inner_lr == 0.05
    protonet = TrainConfig.for_dataset("strokes", algorithm="protonet")
    assert (protonet.hidden, protonet.inner_lr) == (48, TrainConfig.inner_lr)


def test_protonet_is_tested_on_other_ways_than_it_trains_on(tmp_path) -> None:
    result = train(tiny("protonet", n_way=4, eval_n_way=2), out=tmp_path / "run")
    assert result.evaluation["inner_steps"] == 0
    assert RunFolder(result.path).read_config()["arguments"]["eval_n_way"] == 2


def test_protonet_wants_embeddings(tmp_path) -> None:
    with pytest.raises(ValueError, match="model tutorial has a classifier"):
        train(tiny("protonet", model="tutorial", image_size=28), out=tmp_path / "run")


def test_schedules() -> None:
    at = {name: [schedule.factor(i, 4000) for i in (0, 2000, 3999)] for name, schedule in SCHEDULES.items()}
    assert at["constant"] == [1, 1, 1]
    assert at["linear"] == pytest.approx([1, 0.5, 1 / 4000])
    assert at["cosine"] == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert at["halving"] == [1, 0.5, 0.5]


def test_the_outer_step_follows_its_schedule(tmp_path) -> None:
    run = train(tiny("maml", meta_schedule="linear"), out=tmp_path / "run")
    group = RunFolder(run.path).load_checkpoint()["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(TINY.meta_lr / TINY.iterations)  # of the last step


def test_the_outer_step_falls_to_its_least(tmp_path) -> None:
    run = train(tiny("maml", meta_schedule="linear", least_meta_lr=1e-4), out=tmp_path / "run")
    group = RunFolder(run.path).load_checkpoint()["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(1e-4 + (TINY.meta_lr - 1e-4) / TINY.iterations)
    with pytest.raises(ValueError, match=r"least_meta_lr 0.1 is above meta_lr 0.001"):
        TrainConfig(meta_lr=1e-3, least_meta_lr=0.1)


@pytest.mark.parametrize(("clip", "bound"), [("clip_value", 1e-3), ("clip_norm", 1e-2)])
def test_the_meta_gradient_is_clipped(clip: str, bound: float, tmp_path, monkeypatch) -> None:
    found = []
    step = torch.optim.Adam.step

    def watched(self, *arguments):
        gradients = torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]])
        found.append(float(gradients.abs().max() if clip == "clip_value" else gradients.norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    train(tiny("maml"), out=tmp_path / "free")
    assert min(found) > bound
    found.clear()
    train(tiny("maml", **{clip: bound}), out=tmp_path / "clipped")
    assert found == pytest.approx([bound] * TINY.iterations, rel=1e-3)


def test_the_pieces_of_maml_plus_plus_train_and_go_on_bitwise(tmp_path) -> None:
    pieces = {"inner_optimizer": "adam", "inner_lr": 0.01, "batch_norm": "per_step_running", "inner_steps": 2}
    annealed = {"first_order_iterations": 2, "multi_step_iterations": 4, "meta_schedule": "cosine"}
    config = tiny("maml", checkpoint_seconds=0.0, **pieces, **annealed)
    whole = train(config, out=tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(config, out=tmp_path / "run", reporter=Die())
    assert resume(tmp_path / "run").evaluation == whole.evaluation
    assert_same_run(tmp_path / "run", whole.path)
    assert "not transductive" in whole.evaluation["batch_norm"]


def test_a_run_whose_steps_fall_to_its_end_keeps_its_length(tmp_path) -> None:
    run = train(tiny("maml", meta_schedule="cosine"), out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"iterations \(run: 6, asked: 8\)"):
        resume(run.path, iterations=8)


def call(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_recipes_are_listed_with_every_number() -> None:
    listed = call("recipes")
    assert listed.exit_code == 0
    assert all(name in listed.output for name in RECIPES)
    assert "98.7 ± 0.4 %" in listed.output
    one = call("recipes", "nichol2018-omniglot-5w1s")
    assert all(name in one.output for name in RECIPES["nichol2018-omniglot-5w1s"].settings)
    told = ("published: 97.68 ± 0.04 %", "mean cross-entropy", "Pillow's bicubic", "batch statistics (transductive")
    assert all(text in " ".join(one.output.split()) for text in told)
    other = " ".join(call("recipes", "antoniou2019-omniglot-5w1s").output.split())
    assert "scale and shift of every inner step" in other
    assert call("recipes", "finn2018").exit_code == 2


def test_reproduce_prints_ours_beside_the_published(root, tmp_path, monkeypatch) -> None:
    small = {"hidden": 4, "meta_batch_size": 2, "eval_every": 2, "eval_episodes": 2, "test_episodes": 3}
    recipe = RECIPES["finn2017-omniglot-5w1s"]
    monkeypatch.setitem(RECIPES, "finn2017-omniglot-5w1s", recipe._replace(settings={**recipe.settings, **small}))
    arguments = ("--root", root, "--iterations", 3, "--threads", 1, "--out", tmp_path / "run")
    result = call("reproduce", "finn2017-omniglot-5w1s", *arguments)
    assert result.exit_code == 0, result.output
    assert "published  98.7 ± 0.4 % (Finn, Abbeel & Levine 2017)" in result.output
    assert "shortened or changed: iterations 3" in result.output

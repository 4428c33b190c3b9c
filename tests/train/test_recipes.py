"""Named recipes: what they fix, what may be changed in them, and that they run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tiny_color import write_caches
from tiny_run import assert_same_run

from maml_fast.algorithms import ALGORITHMS
from maml_fast.cli import main
from maml_fast.train import Reporter, TrainConfig, resume, train
from maml_fast.train._recipes import RECIPES
from maml_fast.train._record import RunFolder
from maml_fast.train._workbench import Workbench

pytestmark = [pytest.mark.usefixtures("plain_pictures"), pytest.mark.backendless]

OF_THE_MACHINE = {
    "recipe",
    "root",
    "task_chunk",
    "checkpoint_seconds",
    "threads",
    "device",
    "model_args",  # for classes of one's own
    "cuda_graph",
    "fixed_order",
}
SMALL = {
    "hidden": 4,
    "meta_batch_size": 2,
    "iterations": 4,
    "eval_every": 2,
    "eval_episodes": 2,
    "test_episodes": 3,
    "threads": 1,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Noise of Omniglot's shape."""
    root = tmp_path_factory.mktemp("omniglot")
    pixels = np.random.default_rng(0).integers(0, 256, (1623, 20, 1, 28, 28), dtype=np.uint8)
    np.save(root / "omniglot.npy", pixels)
    return root


@pytest.fixture(scope="module")
def roots(root, tmp_path_factory) -> dict[str, Path]:
    """Noise of every data set that a recipe is for; of mini-ImageNet small images."""
    color = tmp_path_factory.mktemp("mini-imagenet")
    noise = np.random.default_rng(0)
    write_caches(
        color,
        {
            part: {f"{part}{i:02d}": noise.integers(0, 256, (20, 28, 28, 3), dtype=np.uint8) for i in range(n_classes)}
            for part, n_classes in {"train": 30, "val": 5, "test": 5}.items()
        },
    )
    return {"omniglot": root, "mini-imagenet": color}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_leaves_nothing_to_a_default(recipe):
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    config = TrainConfig.for_recipe(recipe)
    assert set(RECIPES[recipe].settings) == fields - OF_THE_MACHINE - set(ALGORITHMS[config.algorithm].ignores)
    assert config.recipe == recipe
    assert config.overrides == {}
    assert TrainConfig.from_arguments(json.loads(json.dumps(config.arguments()))) == config


def test_finn_2017():
    of_both = {
        "dataset": "omniglot",
        "split": "finn",
        "scale": "inverted",
        "rotate": True,
        "eval_rotate": True,
        "model": "conv4-strided",
        "hidden": 64,
        "order": 2,
        "inner_lr": 2.0,
        "meta_lr": 1e-3,
        "iterations": 60_000,
        "k_shot": 1,
        "k_query": 1,
        "test_episodes": 600,
    }
    own = {
        "finn2017-omniglot-5w1s": {"n_way": 5, "meta_batch_size": 32, "inner_steps": 1, "eval_inner_steps": 3},
        "finn2017-omniglot-20w1s": {"n_way": 20, "meta_batch_size": 16, "inner_steps": 5, "eval_inner_steps": 5},
    }
    for recipe, settings in own.items():
        arguments = TrainConfig.for_recipe(recipe).arguments()
        for name, value in {**of_both, **settings}.items():
            assert arguments[name] == value, name


def test_the_tutorial():
    arguments = TrainConfig.for_recipe("tutorial-omniglot-5w1s").arguments()
    expected = {
        "split": "tutorial",
        "scale": "raw",
        "rotate": False,
        "model": "tutorial",
        "order": 1,
        "n_way": 5,
        "k_query": 15,
        "meta_batch_size": 8,
        "inner_lr": 0.04,
        "inner_steps": 5,
        "meta_lr": 2e-4,
    }
    assert {name: arguments[name] for name in expected} == expected


def test_finns_inner_loop_leaves_the_batch_norms_shift_out_but_trains_it(root):
    bench = Workbench.open(TrainConfig.for_recipe("finn2017-omniglot-5w1s", root=root, hidden=4))
    shifts = {f"features.{i}.norm.bias" for i in range(4)}
    names = {name for name, _ in bench.learner.model.named_parameters()}
    assert names - set(bench.learner.adapted) == shifts
    assert shifts < names


@pytest.mark.parametrize("turned", [False, True])
def test_evaluation_episodes_are_turned_only_where_asked(root, turned):
    config = TrainConfig.for_recipe("finn2017-omniglot-5w1s", root=root, hidden=4, eval_rotate=turned)
    bench = Workbench.open(config)
    images = {image.tobytes() for image in bench.data["test"].images[:, 0]}
    drawn = (255 * (1 - bench.sampler("test").batch(0).x_qry)).round().byte().numpy()  # inverted
    assert all(image.tobytes() in images for image in drawn.reshape(-1, 28, 28)) != turned


def test_overrides_are_kept_apart(root, tmp_path):
    changes = {**SMALL, "inner_lr": 0.5, "n_way": 3}
    config = TrainConfig.for_recipe("finn2017-omniglot-20w1s", root=root, **changes)
    assert config.overrides == {name: value for name, value in changes.items() if name not in OF_THE_MACHINE}
    train(config, out=tmp_path / "run")
    record = RunFolder(tmp_path / "run").read_config()
    assert record["arguments"]["recipe"] == "finn2017-omniglot-20w1s"
    assert record["overrides"] == config.overrides
    assert record["facts"]["recipe"].startswith("finn2017-omniglot-20w1s, but ")
    assert "inner_lr 0.5" in record["facts"]["recipe"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs(roots, tmp_path, recipe):
    shortened = {"iterations": 2, "eval_inner_steps": min(2, RECIPES[recipe].settings["eval_inner_steps"])}
    root = roots[RECIPES[recipe].settings["dataset"]]
    result = train(
        TrainConfig.for_recipe(recipe, root=root, **{**SMALL, **shortened, "image_size": 28}), out=tmp_path / "run"
    )
    assert result.evaluation["episodes"] == SMALL["test_episodes"]
    assert RunFolder(tmp_path / "run").read_config()["facts"]["recipe"].startswith(f"{recipe}, but ")


@pytest.mark.parametrize("recipe", ["finn2017-omniglot-5w1s", "antoniou2019-omniglot-5w1s"])
def test_a_recipe_resumes_bitwise(root, tmp_path, recipe):
    class Die(Reporter):
        def stepped(self, row):
            if row["iteration"] == 3:
                raise ZeroDivisionError

    config = TrainConfig.for_recipe(recipe, root=root, checkpoint_seconds=0.0, **SMALL)
    whole = train(config, out=tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(config, out=tmp_path / "run", reporter=Die())
    assert resume(tmp_path / "run").evaluation == whole.evaluation
    assert_same_run(tmp_path / "run", whole.path)


def test_command_line(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", value)]
    result = call("train", "--recipe", "finn2017-omniglot-5w1s", "--root", root, "--no-eval-rotate", *options)
    assert result.exit_code == 0, result.output
    assert "recipe" in result.stdout
    arguments = RunFolder(tmp_path / "runs" / "finn2017-omniglot-5w1s-001").read_config()["arguments"]
    assert (arguments["inner_lr"], arguments["eval_rotate"], arguments["hidden"]) == (2.0, False, 4)


def test_a_recipe_needs_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("train", "--recipe", "finn2017-omniglot-5w1s")
    assert result.exit_code == 2
    assert "--root" in result.stderr


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ValueError, match=f"recipe must be one of {', '.join(RECIPES)}; got 'finn2018'"):
        TrainConfig.for_recipe("finn2018")
    result = call("train", "--recipe", "finn2018")
    assert result.exit_code == 2
    assert all(recipe in result.stderr for recipe in RECIPES)

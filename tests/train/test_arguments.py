"""Arguments of a run: what they may be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TINY

from maml_fast.train import TrainConfig, train

pytestmark = [pytest.mark.usefixtures("plain_pictures"), pytest.mark.backendless]


BAD_ARGUMENTS = [
    ("dataset", "omniglut", ValueError, "dataset must be one of strokes, glyphs, omniglot"),
    ("n_way", 1, ValueError, "n_way must be at least 2, got 1"),
    ("n_way", 2.5, TypeError, "n_way must be an integer, got 2.5"),
    ("n_way", True, TypeError, "n_way must be an integer, got True"),
    ("k_shot", 0, ValueError, "k_shot must be from 1 to 1,000,000, got 0"),
    ("k_query", -1, ValueError, "k_query must be from 1 to 1,000,000"),
    ("meta_batch_size", 0, ValueError, "meta_batch_size must be from 1 to 1,000,000"),
    ("inner_lr", float("nan"), ValueError, "inner_lr must be finite"),
    ("inner_lr", "fast", TypeError, "inner_lr must be a number"),
    ("meta_lr", 0.0, ValueError, "meta_lr must be finite and above 0"),
    ("inner_steps", 0, ValueError, "inner_steps must be from 1 to 1,000,000"),
    ("order", 3, ValueError, "order must be one of 1, 2; got 3"),
    ("iterations", 0, ValueError, "iterations must be at least 1"),
    ("seed", -1, ValueError, r"seed must be from 0 to 2\*\*63 - 1, got -1"),
    ("seed", 2**63, ValueError, r"seed must be from 0 to 2\*\*63 - 1, got 9223372036854775808"),
    ("model", "resnet", ValueError, "model must be one of conv4"),
    ("scale", "log", ValueError, "scale must be one of unit, raw, inverted"),
    ("rotate", 1, TypeError, "rotate must be True or False, got 1"),
    ("eval_rotate", "no", TypeError, "eval_rotate must be True or False, got 'no'"),
    ("adapted", 3, TypeError, "adapted must be a str, got 3; give names with commas between"),
    ("recipe", "finn2018", ValueError, "recipe must be one of finn2017-omniglot-5w1s"),
    ("eval_every", 0, ValueError, "eval_every must be at least 1"),
    ("eval_episodes", 1, ValueError, "eval_episodes must be from 2 to 1,000,000,000, got 1"),
    ("eval_inner_steps", -1, ValueError, "eval_inner_steps must be from 0 to 1,000,000"),
    ("threads", 0, ValueError, "threads must be from 1 to 1024, got 0"),
    ("task_chunk", 0, ValueError, "task_chunk must be .*got 0"),
    ("task_chunk", "some", ValueError, "task_chunk must be .*got 'some'"),
    ("device", "tpu", ValueError, "device must be one of cpu, cuda"),
    ("checkpoint_seconds", -1.0, ValueError, "checkpoint_seconds must be finite and at least 0"),
    ("channels", "CMYK", ValueError, "channels must be one of L, RGB"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments(name, value, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(TINY, **{name: value})


@pytest.mark.parametrize("config", ["", 0, [], {}, False])
def test_what_is_no_config_does_not_train_the_default(config, tmp_path):
    with pytest.raises(TypeError, match="config must be a TrainConfig, got"):
        train(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_and_paths_become_plain():
    config = dataclasses.replace(
        TINY, n_way=np.int64(3), inner_lr=np.float32(0.5), rotate=np.bool_(False), adapted="head"
    )
    assert json.loads(json.dumps(config.arguments())) == config.arguments()
    assert (type(config.n_way), config.inner_lr, config.rotate) == (int, 0.5, False)
    assert TrainConfig(dataset="omniglot", root=Path("here"), split=Path("finn")).split == "finn"


def test_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="torch finds no CUDA device; use device cpu"):
        dataclasses.replace(TINY, device="cuda")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "omniglot", "root": None}, "needs root"),
        ({"dataset": "omniglot", "root": "/nonexistent"}, "nonexistent"),
        ({"dataset": "folder", "root": "/nonexistent"}, "no folder /nonexistent"),
        ({"n_way": 500}, "n_way is 500, but bank .* has only 423 classes"),
        ({"k_query": 20}, r"k_shot \+ k_query is 1 \+ 20"),
        ({"model": "tutorial"}, "model tutorial takes images of 28 x 28, got 16 x 16"),
        ({"image_size": 8}, "image_size"),
        ({"channels": "RGB"}, "takes no channels"),
        ({"adapted": "head, body"}, "adapted names 'head', which matches no parameter"),
    ],
)
def test_runs_that_cannot_be_leave_no_folder(tmp_path, changes, message):
    if changes.get("dataset", "random") != "random":
        changes = {**changes, "image_size": None}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(dataclasses.replace(TINY, **changes), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dataset", ["strokes", "omniglot", "random", "folder"])
def test_every_data_set_has_valid_defaults(dataset):
    assert TrainConfig.for_dataset(dataset, seed=5).seed == 5

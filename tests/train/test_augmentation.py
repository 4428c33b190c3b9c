"""Training episodes are augmented as the arguments say; those of evaluations are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_run import TINY, assert_same_run

from maml_fast.train import TrainConfig, resume, train
from maml_fast.train._workbench import Workbench

pytestmark = [pytest.mark.backendless, pytest.mark.usefixtures("plain_pictures")]

AUGMENTED = replace(TINY, crop_padding=2, flip=True, color_jitter=0.5)


def test_only_training_episodes_are_augmented():
    plain, augmented = Workbench.open(TINY), Workbench.open(AUGMENTED)
    one, other = (next(bench.training_batches(0)) for bench in (plain, augmented))
    assert torch.equal(one.y_qry, other.y_qry)
    assert not torch.equal(one.x_qry, other.x_qry)
    for part in ("train", "test"):
        assert torch.equal(plain.sampler(part).batch(0).x_qry, augmented.sampler(part).batch(0).x_qry)


def test_each_argument_reaches_the_sampler():
    sampler = Workbench.open(AUGMENTED).training_sampler(3)
    assert (sampler.crop_padding, sampler.flip, sampler.color_jitter) == (2, True, 0.5)


def test_a_resumed_run_sees_the_same_episodes(tmp_path):
    whole = train(AUGMENTED, out=tmp_path / "whole").path
    parts = train(replace(AUGMENTED, iterations=3), out=tmp_path / "parts").path
    resume(parts, iterations=AUGMENTED.iterations)
    assert_same_run(parts, whole)


def test_a_padding_as_large_as_the_images_is_found_before_training(tmp_path):
    with pytest.raises(ValueError, match="crop_padding must be below the side of the images, got 16 for 16 x 16"):
        train(replace(TINY, crop_padding=16), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_padding": -1}, "crop_padding must be from 0 to 4096, got -1"),
        ({"color_jitter": 1}, "color_jitter must be finite, at least 0 and below 1, got 1"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)

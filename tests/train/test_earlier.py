"""Run folders of earlier versions go on, under the names that things have today."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_run import TINY, assert_same_run

from maml_fast.train import evaluate_run, resume, train
from maml_fast.train._earlier import state_with_current_names, with_current_names, with_old_names
from maml_fast.train._integrity import digest_of_arguments
from maml_fast.train._record import RunFolder

THEN = {"algorithm": "learned-optimiser", "adapt": "head", "inner_optimiser": "sgd", "seed": 3}
TODAY = {"algorithm": "learned-optimizer", "adapted": "head", "inner_optimizer": "sgd", "seed": 3}


def test_names():
    assert with_current_names(THEN) == TODAY == with_current_names(TODAY)
    assert with_old_names(TODAY) == THEN
    state = {"maml": {"model.inner_optimiser.x": 1, "inner_optimiser.lstm": 2}, "iteration": 3}
    renamed = {"maml": {"model.inner_optimiser.x": 1, "inner_optimizer.lstm": 2}, "iteration": 3}
    assert state_with_current_names(state) == renamed == state_with_current_names(renamed)
    assert state_with_current_names({"maml": None}) == {"maml": None}


@pytest.mark.usefixtures("plain_pictures")
def test_a_run_of_an_earlier_version_goes_on(whole, tmp_path):
    path = train(replace(TINY, iterations=3), out=tmp_path / "run").path
    folder = RunFolder(path)
    record = json.loads(folder.config.read_text())
    record["arguments"] = with_old_names(record["arguments"])
    del record["arguments"]["model_args"]  # younger than the run
    folder.config.write_text(json.dumps(record))
    state = torch.load(folder.checkpoint, weights_only=True)
    state["arguments_sha256"] = digest_of_arguments(record["arguments"])
    torch.save(state, folder.checkpoint)
    evaluate_run(path, n_episodes=2)
    resume(path, iterations=TINY.iterations)
    assert_same_run(path, whole.path)

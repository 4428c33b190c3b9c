"""Runs whose tasks start their classifier elsewhere than from learned rows."""

from __future__ import annotations

import dataclasses

import pytest
from tiny_run import TINY, assert_same_run

from maml_fast.train import TrainConfig, resume, train
from maml_fast.train._metrics import read_metrics
from maml_fast.train._record import RunFolder

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.mark.parametrize("head", ["zero", "tied", "proto"])
def test_trains_evaluates_at_other_numbers_and_goes_on_as_if_never_stopped(head, tmp_path):
    config = dataclasses.replace(TINY, head=head, eval_n_way=4, learn_inner_lr=False)
    whole = train(config, out=tmp_path / "whole")
    assert whole.evaluation["n_way"] == 4
    evaluations = [row for row in read_metrics(RunFolder(whole.path).metrics) if "accuracy" in row]
    assert [row["n_way"] for row in evaluations] == [4] * len(evaluations)
    train(dataclasses.replace(config, iterations=3), out=tmp_path / "parts")
    resume(tmp_path / "parts", iterations=6)
    assert_same_run(whole.path, tmp_path / "parts")


def test_a_run_from_before_there_were_heads_goes_on(copy):
    folder = RunFolder(copy)
    record = folder.read_config()
    del record["arguments"]["head"]
    folder.write_json(folder.config, record)
    state = folder.load_checkpoint()
    folder.save_checkpoint({name: each for name, each in state.items() if name != "arguments_sha256"})
    assert resume(copy, iterations=8).iterations == 8
    assert folder.read_config()["arguments"]["head"] == "learned"


def test_from_elsewhere_evaluation_takes_as_many_steps_as_training():
    steps = {head: TrainConfig(head=head, inner_steps=2).steps_in_evaluation for head in ("learned", "zero", "proto")}
    assert steps == {"learned": 3, "zero": 2, "proto": 2}
    assert TrainConfig(head="zero", inner_steps=2, eval_inner_steps=4).steps_in_evaluation == 4


@pytest.mark.parametrize("algorithm", ["boil", "protonet"])
def test_heads_mean_nothing_to_some(algorithm):
    with pytest.raises(ValueError, match=f"head 'zero' is not an option of algorithm {algorithm}"):
        TrainConfig.for_dataset(algorithm=algorithm, head="zero")


def test_boil_is_evaluated_on_as_many_classes_as_it_has_rows():
    with pytest.raises(ValueError, match=r"eval_n_way 7 is not n_way 5, but boil has a classifier .* does not adapt"):
        TrainConfig.for_dataset(algorithm="boil", eval_n_way=7)

"""A checkpoint is evaluated, and resumed, only with what belongs to it."""

from __future__ import annotations

import json

import pytest

from maml_fast.train import evaluate_run, resume
from maml_fast.train._record import RunFolder

pytestmark = pytest.mark.usefixtures("plain_pictures")


@pytest.mark.parametrize("action", [resume, evaluate_run])
def test_other_data_are_refused(copy, action):
    text = (copy / "config.json").read_text()
    digest = json.loads(text)["data"]["split"]["sha256"]
    (copy / "config.json").write_text(text.replace(digest, "0" * 64))
    with pytest.raises(ValueError, match="the data differ from those of"):
        action(copy)


@pytest.mark.parametrize("action", [resume, evaluate_run])
def test_truncated_checkpoint_is_one_clear_error(copy, action):
    content = (copy / "checkpoint.pt").read_bytes()
    (copy / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read.*put checkpoint-previous\.pt in its place"):
        action(copy)


@pytest.mark.parametrize("action", [resume, evaluate_run])
@pytest.mark.parametrize("damage", ["shapes", "names", "missing"])
def test_checkpoint_of_another_run_is_one_clear_error(copy, action, damage):
    folder = RunFolder(copy)
    checkpoint = folder.load_checkpoint()
    weights = checkpoint["maml"]
    if damage == "shapes":
        checkpoint["maml"] = {name: weight[None] for name, weight in weights.items()}
    elif damage == "names":
        checkpoint["maml"] = {f"other.{name}": weight for name, weight in weights.items()}
    else:
        del checkpoint["maml"]
    folder.save_checkpoint(checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint\.pt does not fit config\.json .*is it from another run\?"):
        action(copy)


@pytest.mark.parametrize("action", [resume, evaluate_run])
def test_run_of_another_version_is_named(copy, action):
    config = json.loads((copy / "config.json").read_text())
    config["arguments"]["flux"] = 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unknown arguments flux"):
        action(copy)


def test_evaluation_repeats_that_of_the_run(whole, copy):
    row = evaluate_run(copy, n_episodes=5)
    by_support = row["by_support"]
    assert row == {**whole.evaluation, "by_support": by_support}
    assert by_support["batch_norm"] == "the support set's statistics (not transductive)"
    assert 0 <= by_support["accuracy"] <= 1
    assert json.loads((copy / "evaluation-test-1steps-seed3.json").read_text()) == row


def test_a_run_replayed_on_a_gpu_is_evaluated_on_the_cpu(whole, copy):
    config = json.loads((copy / "config.json").read_text())
    config["arguments"] |= {"device": "cuda", "cuda_graph": True}
    (copy / "config.json").write_text(json.dumps(config))
    row = evaluate_run(copy, n_episodes=5, device="cpu")
    del row["by_support"]
    assert row == whole.evaluation


@pytest.mark.parametrize("n_way", [2, 7])
def test_evaluation_at_another_number_of_classes(copy, n_way):
    """Beside the run's own, in a file of its own."""
    before = sorted(path.name for path in copy.iterdir())
    row = evaluate_run(copy, n_episodes=5, n_way=n_way)
    assert row["n_way"] == n_way
    assert json.loads((copy / f"evaluation-test-{n_way}way-1steps-seed3.json").read_text()) == row
    assert row["accuracies"][0] < 1
    assert set(before) < {path.name for path in copy.iterdir()}


def test_evaluation_with_other_steps_seed_and_part(copy):
    row = evaluate_run(copy, n_episodes=7, inner_steps=4, split="train", seed=1)
    assert (row["episodes"], row["inner_steps"], row["split"], row["seed"], row["iteration"]) == (7, 4, "train", 1, 6)
    assert len(row["accuracies"]) == 5
    assert (copy / "evaluation-train-4steps-seed1.json").is_file()
    assert (copy / "evaluation-test-1steps-seed3.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "split must be one of train, test; got 'validation'"),
        ({"n_episodes": 1}, "n_episodes must be from 2 to 1,000,000,000, got 1"),
        ({"inner_steps": -1}, "inner_steps must be from 0 to 1,000,000, got -1"),
        ({"n_way": 1}, "n_way must be at least 2, got 1"),
        ({"n_way": 10**6}, "n_way is 1000000, but bank"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_evaluations(copy, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_run(copy, **arguments)

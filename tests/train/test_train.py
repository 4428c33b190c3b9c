"""What a training run leaves behind, and what it does not touch."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TINY, assert_same_run, state, untimed

from maml_fast.train import Reporter, TrainConfig, resume, train
from maml_fast.train._metrics import read_metrics
from maml_fast.train._networks import make_model
from maml_fast.train._record import RunFolder

pytestmark = pytest.mark.usefixtures("plain_pictures")


def test_run_folder_holds_the_whole_record(whole):
    names = {path.name for path in whole.path.iterdir()} - {".lock"}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "checkpoint-previous.pt",
        "learning_curve.png",
        "episode.png",
        "summary.json",
        "evaluation-test-1steps-seed3.json",
    }
    config = json.loads((whole.path / "config.json").read_text())
    assert TrainConfig.from_arguments(config["arguments"]) == TINY
    assert config["data"]["split"]["sha256"]
    assert config["sessions"][0]["torch"] == torch.__version__
    assert config["sessions"][0]["backend"].startswith(("native", "reference"))


def test_pictures_are_pictures(whole):
    for name in ("learning_curve.png", "episode.png"):
        picture = np.asarray(Image.open(whole.path / name).convert("L"))
        assert min(picture.shape) > 200
        assert picture.std() > 10


def test_metrics_tell_every_iteration_and_evaluation(whole):
    rows = read_metrics(whole.path / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    tests = [row for row in rows if "accuracy" in row]
    assert [row["iteration"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert all(row["seconds"] > row["wait_seconds"] >= 0 and row["episodes_per_second"] > 0 for row in steps)
    assert [row["iteration"] for row in tests] == [0, 2, 4, 6]
    for row in tests:
        assert row["accuracy"] == row["accuracies"][-1]
        assert row["interval"] == row["intervals"][-1]
        assert len(row["accuracies"]) == len(row["intervals"]) == 2
        assert "statistics" in row["batch_norm"]


def test_every_row_tells_the_wall_time_since_the_start_over_all_sessions(tmp_path):
    run = train(dataclasses.replace(TINY, iterations=3), out=tmp_path / "run").path
    folder = RunFolder(run)
    first = folder.load_checkpoint()["elapsed_seconds"]
    folder.save_checkpoint({**folder.load_checkpoint(), "elapsed_seconds": first + 1000})  # a session of long ago
    resume(run, iterations=6)
    times = [row["elapsed_seconds"] for row in read_metrics(folder.metrics)]
    assert times == sorted(times)
    assert times[-1] > 1000
    rows = read_metrics(folder.metrics)
    assert all((row["elapsed_seconds"] > 1000) == (row["iteration"] > 3) for row in rows)
    assert folder.load_checkpoint()["elapsed_seconds"] > times[-1] - 0.001  # rounded


def test_result_and_summary_agree(whole):
    assert whole.iterations == 6
    assert whole.evaluation["episodes"] == 5
    assert 0 <= whole.waiting_share < 1
    summary = json.loads((whole.path / "summary.json").read_text())
    assert summary == {**dataclasses.asdict(whole), "path": str(whole.path)}


def test_the_same_arguments_give_the_same_run(whole, tmp_path):
    assert_same_run(whole.path, train(TINY, out=tmp_path / "again").path)


def test_another_seed_gives_another_run(whole, tmp_path):
    other = train(dataclasses.replace(TINY, seed=4, iterations=1), out=tmp_path / "other").path
    assert untimed(other)[1] != untimed(whole.path)[1]


def test_torch_is_left_as_it_was(tmp_path):
    torch.manual_seed(11)
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    config = dataclasses.replace(TINY, iterations=1, threads=threads + 1)
    train(config, out=tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_num_threads() == threads
    assert RunFolder(tmp_path / "run").read_config()["sessions"][0]["threads"] == threads + 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = dataclasses.replace(TINY, inner_lr=1e38, learn_inner_lr=False, checkpoint_seconds=0.0)
    with pytest.raises(
        RuntimeError, match=r"the loss became (nan|inf) in iteration 1: .*smaller inner_lr .*iteration 0"
    ):
        train(config, out=tmp_path / "run")
    assert state(tmp_path / "run")["iteration"] == 0
    assert all(value.isfinite().all() for value in state(tmp_path / "run").values())


def test_a_gradient_that_is_not_finite_never_reaches_the_parameters(tmp_path, monkeypatch):
    factors = iter([1.0, 1.0, float("nan")])  # the meta-gradient of the third iteration is NaN while its loss is fine

    def poisoned_model(*arguments):
        model = make_model(*arguments)
        next(model.parameters()).register_hook(lambda gradient: gradient * next(factors))
        return model

    monkeypatch.setattr("maml_fast.train._workbench.make_model", poisoned_model)
    config = dataclasses.replace(TINY, checkpoint_seconds=0.0)
    with pytest.raises(
        RuntimeError, match=r"the meta-gradient is not finite in iteration 3: .* still holds iteration 2"
    ):
        train(config, out=tmp_path / "run")
    assert state(tmp_path / "run")["iteration"] == 2


def test_checkpoints_are_written_as_often_as_asked(tmp_path, monkeypatch):
    seen = []

    class Watch(Reporter):
        def stepped(self, row):
            seen.append(int(state(tmp_path / "run")["iteration"]))

    train(dataclasses.replace(TINY, checkpoint_seconds=0.0), out=tmp_path / "run", reporter=Watch())
    assert seen == [0, 1, 2, 3, 4, 5]  # at the report of an iteration, the one before it is on disk


def test_class_folders_in_color_with_validation_classes(tmp_path, class_folders):
    config = dataclasses.replace(
        TINY, dataset="folder", root=class_folders, channels="RGB", iterations=2, k_query=1, rotate=False
    )
    result = train(config, out=tmp_path / "run")
    splits = [row["split"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "split" in row]
    assert splits == ["val", "val"]  # the test classes are left for the end
    assert result.evaluation["split"] == "test"


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    results = []
    config = dataclasses.replace(TINY, iterations=1)
    worker = threading.Thread(target=lambda: results.append(train(config, out=tmp_path / "run")))
    worker.start()
    worker.join()
    assert results[0].iterations == 1


@pytest.mark.parametrize("model", ["conv4", "conv4-strided", "resnet12", "tutorial"])
@pytest.mark.parametrize("order", [1, 2])
def test_every_model_trains(tmp_path, model, order):
    config = dataclasses.replace(
        TINY, model=model, hidden=4, order=order, image_size=28, iterations=1, eval_episodes=2, test_episodes=2
    )
    assert train(config, out=tmp_path / "run").iterations == 1

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from maml_fast.maml.task_chunks import TASKS_PER_THREAD
from maml_fast.train import Reporter, TrainConfig, TrainingInterrupted, evaluate_run, resume, train
from maml_fast.train.metrics import read_metrics
from maml_fast.train.recipes import make_model
from maml_fast.train.record import RunFolder

TINY = TrainConfig(
    dataset="random",
    n_way=3,
    k_query=2,
    meta_batch_size=2,
    inner_steps=1,
    iterations=6,
    seed=3,
    hidden=4,
    image_size=16,
    eval_every=2,
    eval_episodes=3,
    test_episodes=5,
    eval_inner_steps=1,
    learn_inner_lr=True,
    threads=1,  # a step is too small to share, and the suite may not have the machine to itself
)
TIMES = ("seconds", "wait_seconds", "episodes_per_second")


def untimed(path: Path) -> list[dict]:
    rows = read_metrics(RunFolder(path).metrics)
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def state(path: Path) -> dict:
    """The checkpoint, flat, without times."""
    checkpoint = RunFolder(path).load_checkpoint()
    flat = dict(checkpoint["maml"])
    for number, moments in checkpoint["optimizer"]["state"].items():
        flat.update({f"optimizer {number} {name}": value for name, value in moments.items()})
    return {**flat, "torch_rng": checkpoint["torch_rng"], "iteration": torch.tensor(checkpoint["iteration"])}


def assert_same_run(one: Path, other: Path) -> None:
    assert untimed(one) == untimed(other)
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped; not to be changed."""
    return train(TINY, out=tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def plain_pictures(monkeypatch):
    """Pictures are drawn in `whole` only; they take longer than these trainings."""
    monkeypatch.setattr("maml_fast.train.workbench.draw_learning_curve", lambda *_: b"picture")
    monkeypatch.setattr("maml_fast.train.workbench.draw_episode", lambda *_: b"picture")


class Signals(Reporter):
    """Sends SIGINT to this very process at a chosen moment."""

    def __init__(self, moment: str, iteration: int, times: int = 1):
        self.moment, self.iteration, self.times, self.at = moment, iteration, times, 0

    def _send(self, moment: str) -> None:
        if (moment, self.at) == (self.moment, self.iteration):
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)

    def stepped(self, row):
        self.at = row["iteration"]
        self._send("stepped")

    def evaluating(self, episodes):
        self._send("evaluating")

    def evaluated(self, row):
        self._send("evaluated")


def test_run_folder_holds_the_whole_record(whole):
    names = {path.name for path in whole.path.iterdir()} - {".lock"}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "learning_curve.png",
        "episode.png",
        "summary.json",
        "evaluation-test-1steps-seed3.json",
    }
    config = json.loads((whole.path / "config.json").read_text())
    assert TrainConfig.from_arguments(config["arguments"]) == dataclasses.replace(TINY, task_chunk=TASKS_PER_THREAD)
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


@pytest.mark.parametrize(
    ("moment", "iteration", "times", "kept"),
    [
        ("stepped", 3, 1, 3),
        ("evaluating", 2, 1, 2),  # the evaluation is made up for
        ("evaluated", 4, 1, 4),
        ("evaluating", 0, 1, 0),
        ("evaluating", 6, 1, 6),
        ("stepped", 3, 2, 0),  # a second Ctrl-C breaks into the step: the last checkpoint stays
    ],
)
def test_interrupted_and_resumed_is_bitwise_the_whole(whole, tmp_path, moment, iteration, times, kept):
    run = tmp_path / "run"
    with pytest.raises(TrainingInterrupted, match=rf"iteration {kept}; .*maml-fast train --resume {run}") as stop:
        train(TINY, out=run, reporter=Signals(moment, iteration, times))
    assert (stop.value.iteration, stop.value.signal_number) == (kept, signal.SIGINT)
    assert state(run)["iteration"] == kept
    assert (run / "learning_curve.png").is_file()
    resume(run)
    assert_same_run(run, whole.path)
    sessions = RunFolder(run).read_config()["sessions"]
    assert [session["from_iteration"] for session in sessions] == [0, kept]


def test_modules_that_draw_while_they_train_go_on_where_they_were(tmp_path, monkeypatch):
    def dropping_model(config, image_shape):
        torch.manual_seed(config.seed)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(math.prod(image_shape), config.n_way))

    monkeypatch.setattr("maml_fast.train.workbench.make_model", dropping_model)
    whole = train(TINY, out=tmp_path / "whole").path
    with pytest.raises(TrainingInterrupted):
        train(TINY, out=tmp_path / "run", reporter=Signals("stepped", 3))
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = dataclasses.replace(TINY, iterations=2)
        assert train(config, out=tmp_path / "run", reporter=Signals("stepped", 1)).iterations == 2
    finally:
        signal.signal(signal.SIGINT, before)


def test_resuming_elsewhere_is_said(copy):
    config = json.loads((copy / "config.json").read_text())
    config["sessions"][0]["torch"] = "2.11.0"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.warns(
        RuntimeWarning, match=rf"may differ in rounding: torch 2\.11\.0 -> {re.escape(torch.__version__)}"
    ):
        resume(copy)


def test_raised_iterations_are_bitwise_the_longer_run(whole, tmp_path):
    run = train(dataclasses.replace(TINY, iterations=3), out=tmp_path / "run").path
    result = resume(run, iterations=6)
    assert_same_run(run, whole.path)
    assert result.evaluation == whole.evaluation
    assert RunFolder(run).read_config()["arguments"]["iterations"] == 6


def test_chunks_of_a_run_are_those_it_started_with(tmp_path):
    config = dataclasses.replace(TINY, meta_batch_size=5)
    whole = train(config, out=tmp_path / "whole").path
    with pytest.raises(TrainingInterrupted):
        train(config, out=tmp_path / "run", reporter=Signals("stepped", 3))
    resume(tmp_path / "run", threads=2)  # where it would be other chunks
    assert_same_run(tmp_path / "run", whole)
    assert RunFolder(tmp_path / "run").read_config()["arguments"]["task_chunk"] == TASKS_PER_THREAD
    other = train(dataclasses.replace(config, task_chunk=None, iterations=3), out=tmp_path / "other").path
    assert RunFolder(other).read_config()["arguments"]["task_chunk"] is None
    assert untimed(other)[1]["loss"] == pytest.approx(untimed(whole)[1]["loss"], rel=1e-5)


def test_rows_after_the_checkpoint_are_cut(whole, tmp_path):
    class Die(Reporter):
        def stepped(self, row):
            if row["iteration"] == 5:
                raise ZeroDivisionError  # as good as a kill: nothing is saved

    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(TINY, out=run, reporter=Die())
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 6, "lo')
    assert state(run)["iteration"] == 0
    resume(run)
    assert_same_run(run, whole.path)


def test_a_complete_run_may_be_resumed(whole, copy):
    (copy / "learning_curve.png").unlink()
    result = resume(copy)
    assert result.evaluation == whole.evaluation
    assert (copy / "learning_curve.png").is_file()
    assert_same_run(copy, whole.path)


def test_conflicting_arguments_are_all_named(copy):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(ValueError, match=r"seed \(run: 3, asked: 9\), order|order .*, seed \(run: 3, asked: 9\)"):
        resume(copy, seed=9, order=1, n_way=TINY.n_way, iterations=7)
    assert before == {path.name: path.read_bytes() for path in copy.iterdir()}


def test_iterations_cannot_go_back(copy):
    with pytest.raises(ValueError, match=r"iterations 5 is less than the 6"):
        resume(copy, iterations=5)


@pytest.mark.parametrize("action", [resume, evaluate_run])
def test_other_data_are_refused(copy, action):
    text = (copy / "config.json").read_text()
    digest = json.loads(text)["data"]["split"]["sha256"]
    (copy / "config.json").write_text(text.replace(digest, "0" * 64))
    with pytest.raises(ValueError, match="the data are not those of"):
        action(copy)


@pytest.mark.parametrize("action", [resume, evaluate_run])
def test_truncated_checkpoint_is_one_clear_error(copy, action):
    content = (copy / "checkpoint.pt").read_bytes()
    (copy / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read.*restore it from a copy, or start a new run"):
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
    with pytest.raises(ValueError, match=r"checkpoint\.pt does not fit config\.json .*is it of another run\?"):
        action(copy)


@pytest.mark.parametrize("action", [resume, evaluate_run])
def test_run_of_another_version_is_named(copy, action):
    config = json.loads((copy / "config.json").read_text())
    config["arguments"]["flux"] = 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unknown arguments flux"):
        action(copy)


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

    monkeypatch.setattr("maml_fast.train.workbench.make_model", poisoned_model)
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


BAD_ARGUMENTS = [
    ("dataset", "omniglut", ValueError, "dataset must be one of strokes, omniglot"),
    ("n_way", 1, ValueError, "n_way must be at least 2, got 1"),
    ("n_way", 2.5, TypeError, "n_way must be an integer, got 2.5"),
    ("n_way", True, TypeError, "n_way must be an integer, got True"),
    ("k_shot", 0, ValueError, "k_shot must be at least 1"),
    ("k_query", -1, ValueError, "k_query must be at least 1"),
    ("meta_batch_size", 0, ValueError, "meta_batch_size must be at least 1"),
    ("inner_lr", float("nan"), ValueError, "inner_lr must be finite"),
    ("inner_lr", "fast", TypeError, "inner_lr must be a number"),
    ("meta_lr", 0.0, ValueError, "meta_lr must be finite and above 0"),
    ("inner_steps", 0, ValueError, "inner_steps must be at least 1"),
    ("order", 3, ValueError, "order must be one of 1, 2; got 3"),
    ("iterations", 0, ValueError, "iterations must be at least 1"),
    ("seed", -1, ValueError, "seed must be at least 0"),
    ("seed", 2**63, ValueError, r"seed must be below 2\*\*63"),
    ("model", "resnet", ValueError, "model must be one of conv4"),
    ("scale", "log", ValueError, "scale must be one of unit, raw, inverted"),
    ("rotate", 1, TypeError, "rotate must be true or false"),
    ("eval_every", 0, ValueError, "eval_every must be at least 1"),
    ("eval_episodes", 1, ValueError, "eval_episodes must be at least 2"),
    ("eval_inner_steps", -1, ValueError, "eval_inner_steps must be at least 0"),
    ("threads", 0, ValueError, "threads must be at least 1"),
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
    ],
)
def test_runs_that_cannot_be_leave_no_folder(tmp_path, changes, message):
    if changes.get("dataset", "random") != "random":
        changes = {**changes, "image_size": None}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(dataclasses.replace(TINY, **changes), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def class_folders(tmp_path) -> Path:
    """Class folders, some with names that no built-in font can draw, parted into train, val and test."""
    random = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in ("一", "$x_{", "c"):
            folder = tmp_path / "数据" / part / f"{part}-{name}"
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(random.integers(0, 256, (20, 17, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "数据"


def test_class_folders_in_colour_with_validation_classes(tmp_path, class_folders):
    config = dataclasses.replace(
        TINY, dataset="folder", root=class_folders, channels="RGB", iterations=2, k_query=1, rotate=False
    )
    result = train(config, out=tmp_path / "run")
    splits = [row["split"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "split" in row]
    assert splits == ["val", "val"]  # the test classes are left for the end
    assert result.evaluation["split"] == "test"


def test_run_survives_a_move_of_its_data(tmp_path, class_folders):
    config = dataclasses.replace(TINY, dataset="folder", root=class_folders, iterations=1, k_query=1)
    run = train(config, out=tmp_path / "run").path
    moved = class_folders.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="数据"):
        resume(run)
    assert resume(run, root=moved).iterations == 1
    (moved / "train" / "train-c" / "0.png").write_bytes((moved / "train" / "train-c" / "1.png").read_bytes())
    with pytest.raises(ValueError, match="the data are not those of"):
        resume(run)


@pytest.mark.parametrize("dataset", ["strokes", "omniglot", "random", "folder"])
def test_every_data_set_has_valid_defaults(dataset):
    assert TrainConfig.for_dataset(dataset, seed=5).seed == 5


def test_evaluation_repeats_that_of_the_run(whole, copy):
    row = evaluate_run(copy, episodes=5)
    assert row == whole.evaluation
    assert json.loads((copy / "evaluation-test-1steps-seed3.json").read_text()) == row


def test_evaluation_with_other_steps_seed_and_part(copy):
    row = evaluate_run(copy, episodes=7, inner_steps=4, split="train", seed=1)
    assert (row["episodes"], row["inner_steps"], row["split"], row["seed"], row["iteration"]) == (7, 4, "train", 1, 6)
    assert len(row["accuracies"]) == 5
    assert (copy / "evaluation-train-4steps-seed1.json").is_file()
    assert (copy / "evaluation-test-1steps-seed3.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "split must be one of train, test; got 'validation'"),
        ({"episodes": 1}, "episodes must be at least 2"),
        ({"inner_steps": -1}, "inner_steps must be at least 0"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_evaluations(copy, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate_run(copy, **arguments)


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    results = []
    config = dataclasses.replace(TINY, iterations=1)
    worker = threading.Thread(target=lambda: results.append(train(config, out=tmp_path / "run")))
    worker.start()
    worker.join()
    assert results[0].iterations == 1


@pytest.mark.parametrize("model", ["conv4", "conv4-strided", "tutorial"])
@pytest.mark.parametrize("order", [1, 2])
def test_every_model_trains(tmp_path, model, order):
    config = dataclasses.replace(
        TINY, model=model, order=order, image_size=28, iterations=1, eval_episodes=2, test_episodes=2
    )
    assert train(config, out=tmp_path / "run").iterations == 1

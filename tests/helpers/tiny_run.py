"""A tiny run, what it left on disk, and when two runs are the same."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maml_fast.train import Reporter, TrainConfig, train
from maml_fast.train._metrics import read_metrics
from maml_fast.train._record import RunFolder

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
TIMES = ("seconds", "wait_seconds", "elapsed_seconds", "episodes_per_second")


def untimed(path: Path) -> list[dict]:
    """The rows of a run, without times."""
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


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run that was never stopped; not to be changed."""
    return train(TINY, out=tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "copy"))


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


@pytest.fixture
def plain_pictures(monkeypatch):
    """Pictures are drawn in `whole` only; they take longer than these trainings."""
    monkeypatch.setattr("maml_fast.train._plots.draw_learning_curve", lambda *_: b"picture")
    monkeypatch.setattr("maml_fast.train._plots.draw_episode", lambda *_: b"picture")


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

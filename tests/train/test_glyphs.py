"""From an empty machine to a model of five new characters: glyphs are drawn, trained on, and adapted to."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from maml_fast import data
from maml_fast.cli import main
from maml_fast.data import _glyphs
from maml_fast.train import TrainConfig

pytestmark = [pytest.mark.backendless, pytest.mark.usefixtures("plain_pictures")]


def call(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def write_images(folder: Path) -> None:
    """Five images of every test character to learn from, and the others."""
    characters = data.load("glyphs")["test"]
    for name, images in zip(characters.class_names, characters, strict=True):
        for i, image in enumerate(images):
            to = folder / "known" / name if i < 5 else folder / "new"
            to.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(to / f"{name} {i}.png")


def test_train_evaluate_adapt_predict(tmp_path, monkeypatch):
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_glyphs, "CHARACTERS", {"train": "03467", "val": "ADu", "test": "&8J"})
    run = tmp_path / "run"
    small = "--n-way 3 --head zero --hidden 4 --meta-batch-size 2 --eval-episodes 2 --test-episodes 2 --threads 1"
    call("train", "--dataset", "glyphs", "--iterations", 2, "--crop-padding", 2, "--flip", "--out", run, *small.split())
    assert "test" in call("evaluate", run, "--n-episodes", 2)
    write_images(tmp_path)
    call("adapt", run, tmp_path / "known", "--out", tmp_path / "characters.pt", "--no-judge")
    predictions = call("predict", tmp_path / "characters.pt", tmp_path / "new", "--format", "csv")
    assert len(predictions.splitlines()) > 3 * 7
    assert "DIGIT EIGHT" in predictions


def test_defaults():
    config = TrainConfig.for_dataset("glyphs")
    assert (config.k_query, config.rotate, config.channels) == (5, False, None)

"""The race of accuracy against wall time, on a track of a few iterations."""

from __future__ import annotations

import io
import json

import accuracy_race
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.backendless

TINY = ["--dataset", "strokes", "--minutes", "0.002", "--every", "0.06", "--episodes", "2"]


def test_both_run_the_recipe_from_the_same_start(tmp_path):
    accuracy_race.main([*TINY, "--seed", "3", "--out", str(tmp_path / "race")])
    record = json.loads((tmp_path / "race" / "race.json").read_text())
    assert record["overrides"] == {"dataset": "strokes", "split": None, "seed": 3, "test_episodes": 2}
    ours, theirs = record["curves"].values()
    assert list(record["curves"]) == ["maml_fast", "the tutorial's loop"]
    assert ours[0] == theirs[0]
    for points in (ours, theirs):
        assert len(points) == 3
        assert [point["iterations"] for point in points] == sorted(point["iterations"] for point in points)
        assert points[-1]["iterations"] >= 1
        assert points[-1]["seconds"] >= 0.12
    picture = Image.open(io.BytesIO((tmp_path / "race" / "race.png").read_bytes()))
    assert min(picture.size) > 400


def test_the_racers_see_the_same_episodes_with_the_same_weights():
    bench = accuracy_race.open_bench(accuracy_race.parse(TINY))
    racers = [accuracy_race.Racer(peer, bench) for peer in accuracy_race.RACERS]
    losses = [racer.learner.iteration(next(racer.batches))[-1] for racer in racers]
    torch.testing.assert_close(losses[0], losses[1].to(losses[0].dtype), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "omniglot"], "omniglot needs --root DIR, or MAML_FAST_DATA"),
        (["--dataset", "strokes", "--minutes", "0"], "--minutes must be a positive number, got 0.0"),
        (["--dataset", "strokes", "--every", "nan"], "--every must be a positive number, got nan"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch, capsys):
    monkeypatch.delenv("MAML_FAST_DATA", raising=False)
    with pytest.raises(SystemExit):
        accuracy_race.main(arguments)
    assert message in capsys.readouterr().err


def test_an_earlier_race_is_kept(tmp_path, capsys):
    (tmp_path / "race.json").write_text("{}")
    with pytest.raises(SystemExit):
        accuracy_race.main([*TINY, "--out", str(tmp_path)])
    assert "holds a race.json already" in capsys.readouterr().err

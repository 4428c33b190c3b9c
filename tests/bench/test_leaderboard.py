"""The leaderboard, on runs of one iteration."""

from __future__ import annotations

import json

import leaderboard
import pytest

from maml_fast.algorithms import ALGORITHMS
from maml_fast.data import _glyphs

pytestmark = [pytest.mark.backendless, pytest.mark.usefixtures("plain_pictures")]


def test_every_algorithm_on_every_net(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_glyphs, "CHARACTERS", {"train": "034679BCEGHIMNQRSTUV", "val": "ADu²½", "test": "&8;JK"})
    asked = ["--iterations", "1", "--episodes", "2", "--threads", "1", "--nets", "conv4-strided,fully-connected"]
    leaderboard.main([*asked, "--algorithms", "maml,protonet", "--out", str(tmp_path / "record")])
    record = json.loads((tmp_path / "record" / "leaderboard.json").read_text())
    pairs = [(row["algorithm"], row["net"]) for row in record["rows"]]
    assert pairs == [(a, net) for net in ("conv4-strided", "fully-connected") for a in ("maml", "protonet")]
    assert record["data"]["image_shape"] == [3, 28, 28]
    assert str(tmp_path) not in json.dumps(record)
    assert len(capsys.readouterr().out.splitlines()) == 4
    with pytest.raises(SystemExit):
        leaderboard.main([*asked, "--out", str(tmp_path / "record")])


def test_all_algorithms_have_valid_settings(tmp_path):
    given = leaderboard.parse(["--out", str(tmp_path)])
    for algorithm in ALGORITHMS:
        assert leaderboard.config_of(given, algorithm, "conv4").algorithm == algorithm
    assert set(leaderboard.USUAL) < set(ALGORITHMS)


def test_the_best_is_first():
    def row(algorithm: str, net: str, accuracy: float) -> leaderboard.Row:
        return {"algorithm": algorithm, "net": net, "accuracy": accuracy, "interval": 0.01, "seconds": 2.0}

    rows = [row("maml", "conv4", 0.5), row("anil", "conv4", 0.25), row("anil", "conv4-strided", 0.75)]
    assert leaderboard.table(rows).splitlines() == [
        "| algorithm | conv4 | conv4-strided |",
        "|---|--:|--:|",
        "| ANIL | 25.0 ± 1.0 (2 s) | 75.0 ± 1.0 (2 s) |",
        "| MAML | 50.0 ± 1.0 (2 s) |  |",
    ]


def test_unknown_names(tmp_path, capsys):
    with pytest.raises(SystemExit):
        leaderboard.parse(["--out", str(tmp_path), "--nets", "resnet"])
    assert "there is no 'resnet'; there are conv4, conv4-strided, fully-connected" in capsys.readouterr().err

"""The record of accuracies at several numbers of classes, on runs of two iterations."""

from __future__ import annotations

import json

import pytest
import ways

pytestmark = [pytest.mark.backendless, pytest.mark.usefixtures("plain_pictures")]

TINY = ["--dataset", "strokes", "--heads", "learned,zero", "--ways", "3,7", "--iterations", "2", "--tasks", "2"]
TINY += ["--hidden", "2", "--episodes", "2"]


def test_every_head_at_every_number_of_classes(tmp_path, capsys):
    ways.main([*TINY, "--out", str(tmp_path / "record")])
    record = json.loads((tmp_path / "record" / "ways.json").read_text())
    assert [(row["head"], row["n_way"]) for row in record["rows"]] == [
        ("learned", 3),
        ("learned", 7),
        ("zero", 3),
        ("zero", 7),
    ]
    assert all({"accuracy", "interval"} <= row["by_support"].keys() for row in record["rows"])
    assert {"processor", "torch", "python"} <= record["machine"].keys()
    assert len(capsys.readouterr().out.splitlines()) == 4
    with pytest.raises(SystemExit):
        ways.main([*TINY, "--out", str(tmp_path / "record")])


def test_omniglot_must_be_somewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MAML_FAST_DATA", raising=False)
    with pytest.raises(SystemExit):
        ways.main(["--out", str(tmp_path)])
    assert "omniglot needs --root DIR, or MAML_FAST_DATA" in capsys.readouterr().err

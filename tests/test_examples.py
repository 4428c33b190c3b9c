"""The examples run, and what they say is so: each as a user would call it, only smaller."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import dataloader
import linear_regression
import numpy as np
import pytest
import sinusoid
import students
import torch
from PIL import Image

TINY = ["--students", "40", "--skills", "3", "--answers", "16", "--support", "8", "--hidden", "4", "--iterations", "3"]


def test_sinusoid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = sinusoid.main(["--iterations", "3", "--episodes", "20", "--out", str(tmp_path / "new" / "folder")])
    assert [result.n_episodes for result in results.values()] == [20, 20]
    assert results["MAML"].losses != results["all waves together"].losses
    picture = Image.open(io.BytesIO((tmp_path / "new" / "folder" / "sinusoid.png").read_bytes()))
    assert len(np.unique(np.asarray(picture.convert("L")))) > 50  # not blank
    printed = capsys.readouterr().out
    for name, result in results.items():
        for steps in (0, 1, 10):
            assert f"{result.losses[steps]:.3f} ± {result.loss_intervals[steps]:.3f}" in printed, (name, steps)


@pytest.mark.parametrize("inner_optimizer", ["sgd", "adam"])
def test_students(inner_optimizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    scores = students.main([*TINY, "--inner-optimizer", inner_optimizer])
    printed = capsys.readouterr().out
    assert len(re.search(r"after step 0, 1, ...: (.*)", printed)[1].split()) == 4
    assert "28 students to train on, 4 to choose a rate, 8 new ones" in printed
    for its in scores.values():
        assert 0 < its.before < 1
        assert its.before != its.after
        assert f"{its.after:.4f} ± {its.after_interval:.4f}" in printed


def test_students_of_a_table(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    rows = [f"{s},{random.randint(3)},{random.randint(2)},{t}" for s in range(40) for t in range(10 + s % 7)]
    table = tmp_path / "answers.csv"
    table.write_text("\n".join(["user_id,skill,correct,order", *rows]))
    assert set(students.main([*TINY, "--csv", str(table), "--student", "user_id"])) == {"MAML", "ordinary training"}


def test_both_ways_of_training_students_start_alike() -> None:
    options = students._options([*TINY, "--iterations", "1", "--meta-lr", "0"])
    log, _, _ = students.parts(students.read(options), 0)
    one, other = students.train_by_maml(log, options).model, students.train_ordinarily(log, options)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_no_student_is_in_two_parts() -> None:
    log = students.read(students._options(TINY))
    names = [name for part in students.parts(log, 0) for name in part.student_names]
    assert sorted(names) == sorted(log.student_names)
    with pytest.raises(SystemExit, match="at least 10 students are needed for three parts, got 9"):
        students.parts(log.select(range(9)), 0)


@pytest.mark.parametrize("levels", [3, 1000])
def test_auc_counts_pairs(levels: int) -> None:
    random = np.random.RandomState(0)
    scores, answers = random.randint(levels, size=60) / 7, random.randint(2, size=60)
    right, wrong = scores[answers == 1][:, None], scores[answers == 0]
    assert math.isclose(students.auc(scores, answers), ((right > wrong) + 0.5 * (right == wrong)).mean())
    assert math.isnan(students.auc(scores, np.ones(60)))


def test_dataloader() -> None:
    before, after = dataloader.main(["--tasks", "160", "--test-tasks", "50", "--epochs", "6"])
    assert abs(before - 0.5) < 0.1
    assert after > 0.6


def test_linear_regression() -> None:
    result = linear_regression.main(["--iterations", "300"])
    assert result.losses[1] < 0.5 * result.losses[0]

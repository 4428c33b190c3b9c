"""A run folder is whole, or what is wrong with it is said before anything is computed."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY, assert_same_run

from maml_fast.train import Reporter, evaluate_run, resume, train
from maml_fast.train._record import Row, RunFolder

pytestmark = pytest.mark.usefixtures("plain_pictures")


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the checkpoint again with a change."""
    folder = RunFolder(path)
    state = folder.load_checkpoint()
    change(state)
    torch.save(state, folder.checkpoint)


def first_moment(state: Row) -> dict[str, Any]:
    moments: dict[str, Any] = next(iter(state["optimizer"]["state"].values()))
    return moments


OPTIMIZERS: dict[str, Callable[[Row], object]] = {
    "a shape": lambda state: first_moment(state).update(exp_avg=torch.zeros(1)),
    "another shape": lambda state: first_moment(state).update(exp_avg_sq=torch.zeros(10_000)),
    "a dtype": lambda state: first_moment(state).update(exp_avg=torch.zeros(1, dtype=torch.int64)),
    "steps": lambda state: first_moment(state).update(step=torch.zeros(7)),
    "no moment": lambda state: first_moment(state).pop("exp_avg_sq"),
    "NaN": lambda state: first_moment(state)["exp_avg"].fill_(torch.nan),
    "a parameter": lambda state: state["optimizer"]["state"].update({999: first_moment(state)}),
    "no state": lambda state: state["optimizer"].update(state={}),
    "no optimizer": lambda state: state.update(optimizer=None),
    "a list": lambda state: state.update(optimizer=[]),
    "groups": lambda state: state["optimizer"].update(param_groups=[]),
    "a setting": lambda state: state["optimizer"]["param_groups"][0].pop("betas"),
    "parameters": lambda state: state["optimizer"]["param_groups"][0].update(params=[0]),
    "no iteration": lambda state: state.pop("iteration"),
    "weights": lambda state: state.update(maml={}),
}


@pytest.mark.parametrize("damage", OPTIMIZERS)
def test_a_checkpoint_that_does_not_fit(damage: str, copy: Path) -> None:
    changed(copy, OPTIMIZERS[damage])
    with pytest.raises(ValueError, match=r"checkpoint\.pt (does not fit config\.json|is not a checkpoint)"):
        resume(copy, iterations=8)


def test_every_damaged_byte_of_the_tensors_is_seen(copy: Path) -> None:
    checkpoint = RunFolder(copy).checkpoint
    whole = checkpoint.read_bytes()
    with zipfile.ZipFile(checkpoint) as archive:
        starts = [member.header_offset + 200 for member in archive.infolist() if member.file_size > 200]
    for start in starts[::3]:
        checkpoint.write_bytes(whole[:start] + bytes([whole[start] ^ 4]) + whole[start + 1 :])
        with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read.*checkpoint-previous\.pt in its place"):
            resume(copy)
    shutil.copy(RunFolder(copy).previous_checkpoint, checkpoint)
    resume(copy)


def test_the_checkpoint_before_leads_to_the_same_end(whole: Any, copy: Path) -> None:
    folder = RunFolder(copy)
    os.replace(folder.previous_checkpoint, folder.checkpoint)
    assert folder.load_checkpoint()["iteration"] < TINY.iterations
    resume(copy)
    assert_same_run(copy, whole.path)


METRICS: dict[str, Callable[[list[str]], list[str]]] = {
    "lost": lambda rows: rows[:4] + rows[5:],
    "cut": lambda rows: rows[:5],
    "doubled": lambda rows: [*rows[:4], rows[3], *rows[4:]],
    "shuffled": lambda rows: rows[::-1],
    "empty": lambda rows: [],
}


@pytest.mark.parametrize("damage", METRICS)
def test_rows_are_those_of_every_iteration(damage: str, copy: Path) -> None:
    metrics = RunFolder(copy).metrics
    rows = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(METRICS[damage](rows)))
    with pytest.raises(ValueError, match=r"metrics\.jsonl (does not hold every iteration up to|holds evaluations)"):
        resume(copy, iterations=8)


@pytest.mark.parametrize("change", ["removed", "other", "no data", "sessions"])
def test_config_is_what_the_run_began_with(change: str, copy: Path) -> None:
    config = RunFolder(copy).config
    content = json.loads(config.read_text())
    if change == "removed":
        del content["arguments"]["k_query"]
    elif change == "other":
        content["arguments"]["inner_lr"] = 0.123
    elif change == "no data":
        content["data"] = "strokes"
    else:
        content["sessions"] = {"a": 1}
    config.write_text(json.dumps(content))
    for use in (resume, evaluate_run):
        with pytest.raises(
            ValueError, match=r"does not fit config\.json .*since the run began|config\.json is damaged"
        ):
            use(copy)


class At(Reporter):
    """Does something when an iteration is done."""

    def __init__(self, iteration: int, action: Callable[[], object]) -> None:
        self.iteration, self.action = iteration, action

    def stepped(self, row: Row) -> None:
        if row["iteration"] == self.iteration:
            self.action()


def cut(run: Path) -> None:
    os.truncate(RunFolder(run).metrics, 10)


@pytest.mark.parametrize(
    ("accident", "message"),
    [
        (lambda run: run.rename(run.with_name("elsewhere")), "was moved or removed while the run wrote to it"),
        (shutil.rmtree, "was moved or removed while the run wrote to it"),
        (lambda run: RunFolder(run).metrics.unlink(), "was moved or removed while the run wrote to it"),
        (cut, "was cut from .* bytes while the run wrote to it"),
    ],
)
def test_a_record_that_vanishes_ends_the_run(accident: Any, message: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(OSError, match=message):
        train(TINY, out=run, reporter=At(3, lambda: accident(run)))
    assert not (run / "summary.json").exists()


def test_a_second_run_never_takes_the_folder_of_the_first(tmp_path: Path) -> None:
    """Which may still be preparing its data."""
    run, refused = tmp_path / "run", []

    class Second(Reporter):
        def started(self, *_: Any) -> None:
            with pytest.raises((FileExistsError, RuntimeError)) as error:
                train(TINY, out=run)
            refused.append(str(error.value))

    train(TINY, out=run, reporter=Second())
    assert len(refused) == 1
    resume(run)


def test_a_folder_left_before_the_first_checkpoint_counts_as_empty(whole: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "metrics.jsonl", ".lock", ".checkpoint.pt.0123abcd.part"):
        (run / name).write_text("{")
    train(TINY, out=run)
    assert_same_run(run, whole.path)
    assert not list(run.glob("*.part")) + list(run.glob(".*.part"))


def test_files_that_no_run_left_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        train(TINY, out=tmp_path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("config.json", "mine")]


def test_an_evaluation_that_can_not_be_written_is_told_all_the_same(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("cannot write it; choose another place")

    monkeypatch.setattr(RunFolder, "write_json", full)
    with pytest.warns(RuntimeWarning, match="the result is not recorded: cannot write it"):
        assert 0 <= evaluate_run(copy, n_episodes=2)["accuracy"] <= 1

"""The benchmark of programs that people have: it runs them unchanged and times the iterations that it says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drop_in
import pytest
from drop_in import Example, Net

PROGRAM = """
import learn2learn

def rates(betas=(0, 0.999)):
    return betas

def main(tasks):
    assert isinstance(rates()[0], float)
    drawn = learn2learn.vision.benchmarks.get_tasksets(
        name="omniglot", train_ways=3, train_samples=2, test_ways=3, test_samples=4, root="~/data"
    )
    iteration = 0
    while True:
        images, labels = drawn.train.sample()
        assert images.shape == (6, 1, 28, 28) and labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert drawn.test.sample()[0].shape == (12, 1, 28, 28)
        print("Nothing")
        print("Iteration", iteration)
        iteration += tasks
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the original's name with as much of it as the program uses, and the program."""
    package = tmp_path / "learn2learn"
    (package / "vision").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    namespaces = "import types\nbenchmarks, datasets = types.SimpleNamespace(), types.SimpleNamespace()\n"
    (package / "vision/__init__.py").write_text(namespaces)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/program.py").write_text(PROGRAM)
    for name in [name for name in sys.modules if name.partition(".")[0] == "learn2learn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(drop_in.EXAMPLES, "program", Example("program.py", {"tasks": 2}))
    yield tmp_path
    for name in ("learn2learn", "learn2learn.vision"):
        sys.modules.pop(name, None)


def test_a_program_runs_until_its_iterations_are_timed(checkout: Path) -> None:
    times = drop_in.seconds_of("program", "original", checkout, iterations=3, threads=1)
    assert len(times) == 3
    assert all(seconds >= 0 for seconds in times)


def test_a_net_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config: list[tuple[str, list[Any]]] = [("flatten", []), ("linear", [5, 16])]
    settings = {"task_num": 2, "imgsz": 4, "imgc": 1, "update_lr": 0.1}
    monkeypatch.setitem(drop_in.NETS, "tiny", Net(config, settings))
    assert len(drop_in.seconds_of("tiny", "maml_fast", tmp_path, iterations=2, threads=1)) == 2


def test_the_table_has_the_median_of_the_rounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {"original": iter([0.2, 0.4, 0.8]), "maml_fast": iter([0.1, 0.1, 0.1])}

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        library = command[command.index("--one") + 1]
        return subprocess.CompletedProcess(command, 0, f"a warning\n{json.dumps([next(seconds[library])] * 5)}\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["drop_in.py", "--learn2learn", str(tmp_path), "maml_toy"])
    drop_in.main()
    assert capsys.readouterr().out.splitlines()[2:] == ["| `maml_toy` | 400 ms | 100 ms | 4.00x (2.00–8.00) |"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["maml_tow"], "no such program: maml_tow"), (["dragen1860_omniglot"], "needs --dragen1860 CHECKOUT")],
)
def test_what_is_missing_is_said(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["drop_in.py", *arguments])
    with pytest.raises(SystemExit):
        drop_in.main()
    assert message in capsys.readouterr().err

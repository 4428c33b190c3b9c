"""The race of two versions runs whole, on one checkout given twice."""

import sys
from pathlib import Path

import pytest
import versions

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.backendless


def test_a_checkout_races_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["versions.py", str(ROOT), str(ROOT), "Q2", "--seconds", "0", "--threads", "1"])
    versions.main()
    name, before, after, ratio, _, pairs, error, *_ = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert (name, int(pairs)) == ("Q2", versions.FEWEST)
    assert all(float(cell.split(" ")[0]) > 0 for cell in (before, after, ratio))
    assert float(error) < 1e-9


def test_a_failing_version_ends_the_race(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemExit, match="the process ended at 'parity'"),
        versions.Version(tmp_path, "Q2", 1) as version,
    ):
        version.ask("parity")

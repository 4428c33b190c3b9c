"""Where things lie in the checkout, so that no test has to know how deep its own folder is."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH, CSRC, TESTS = ROOT / "bench", ROOT / "csrc", ROOT / "tests"
HELPERS = TESTS / "helpers"

"""Two records side by side: what got slower, and whether they can be compared at all."""

from __future__ import annotations

import json

import compare as comparison
import pytest
from bench_record import make_record
from peers import GRAPHED, OURS

from maml_fast.cli import _benchmark as benchmark

pytestmark = pytest.mark.backendless


def slowed(record, who, factor, bench="iteration"):
    """The record with one row's times multiplied."""
    for row in record["rows"]:
        if (row["who"], row["bench"]) == (who, bench) and row["rounds"]:
            row["median_ms"] *= factor
            row["quartiles_ms"] = [factor * value for value in row["quartiles_ms"]]
    return record


@pytest.fixture
def compare(tmp_path, capfd):
    def run(old, new):
        paths = []
        for name, content in (("old.json", old), ("new.json", new)):
            paths.append(tmp_path / name)
            paths[-1].write_text(content if isinstance(content, str) else json.dumps(content))
        code = benchmark.compare(*paths)
        return code, capfd.readouterr()

    return run


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_equal_records_are_equal(compare):
    code, told = compare(make_record(), make_record())
    assert code == 0
    assert section(told.out, "Slower").strip() == "–"
    assert "Not measured under equal conditions" not in told.out


@pytest.mark.parametrize(("factor", "code", "title"), [(1.2, 1, "Slower"), (0.8, 0, "Faster")])
def test_what_changed_beyond_the_spread_is_named(compare, factor, code, title):
    found, told = compare(make_record(), slowed(make_record(), "maml_fast", factor))
    assert found == code
    assert "iteration: W9, a net" in section(told.out, title)
    assert f"{factor:.2f}×" in section(told.out, title)


def test_what_lies_within_the_spread_is_not(compare):
    """10.5 to 11.5 ms, and 11.025 to 12.075 ms."""
    assert compare(make_record(), slowed(make_record(), "maml_fast", 1.05))[0] == 0


def test_a_slower_peer_is_named_and_no_fault_of_ours(compare):
    code, told = compare(make_record(), slowed(make_record(), "per-task PyTorch loop", 2))
    assert code == 0
    assert "per-task PyTorch loop" in section(told.out, "Peers")


def test_both_of_our_forms_are_ours():
    assert {OURS.title, GRAPHED.title} <= set(comparison.OURS)


def test_too_few_rounds_are_not_judged(compare):
    """The record's native block was timed once."""
    assert compare(make_record(), slowed(make_record(), "native", 9, bench="op"))[0] == 0


def test_other_machines_and_versions_are_named(compare):
    new = make_record(threads=64)
    new["machine"] = {**new["machine"], "torch": "3.0"}
    _, told = compare(make_record(), new)
    assert "> - torch: 2.99 → 3.0\n> - threads: 5 → 64\n" in told.out


def test_another_device_is_named(compare):
    old = make_record()
    del old["device"], old["precision"]  # as records were before there was a choice
    assert "device" not in compare(old, make_record())[1].out
    _, told = compare(old, make_record(device="cuda", precision="tf32"))
    assert "> - device: cpu → cuda\n> - GPU: – → Slide Rule 7\n> - precision: – → tf32\n" in told.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "new.json is not a record of maml-fast bench"),
        ("[]", "new.json is not a record of maml-fast bench: give the bench.json that it wrote"),
        ('{"rows": [], "format": 1}', "new.json has format 1, this version compares format 2"),
    ],
)
def test_what_is_no_record_is_one_line(compare, content, message):
    code, told = compare(make_record(), content)
    assert code == 2
    assert message in told.err
    assert told.err.count("\n") == 1

"""The benchmarks with --device cuda from one end to the other, in quick mode, where the host plays the GPU."""

from __future__ import annotations

import json
import os

import blocks
import parity
import pytest
from bench_command import run_as_a_user
from checkout import BENCH, HELPERS
from peers import GRAPHED, OURS, TRUTH, of_use_on
from scaling import REPLAYED, WHOLE

pytestmark = pytest.mark.native

WORKLOAD = "Q2"


@pytest.fixture(scope="module")
def out(made_once):
    return made_once("played_bench", run_played)


def run_played(out):
    with pytest.MonkeyPatch.context() as patch:
        paths = [HELPERS / "gpu_player", HELPERS, BENCH, os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
        options = {"device": "cuda", "precision": "tf32", "workloads": WORKLOAD, "seconds": 0.01}
        assert run_as_a_user(quick=True, out=out, **options) == 0


@pytest.fixture(scope="module")
def record(out):
    return json.loads((out / "bench.json").read_text())


def test_everyone_for_a_gpu_is_measured_or_named(record):
    rows = [row for row in record["rows"] if row["bench"] == "iteration"]
    assert {row["subject"] for row in rows} == {WORKLOAD}
    found = {row["who"]: row for row in rows}
    assert set(found) == {peer.title for peer in of_use_on("cuda")}
    for row in rows:
        assert (row["rounds"] > 0) == (row["skipped"] is None)
    for form in (OURS, GRAPHED, TRUTH):
        row = found[form.title]
        assert row["rounds"] > 0
        assert max(row["parity"]["loss"], row["parity"]["gradient"]) < parity.TOLERANCE
    assert record["complete"]


def test_ours_are_traced(record, out):
    for row in record["rows"]:
        ours = row["who"] in (OURS.title, GRAPHED.title, "native")
        assert (row["kernels_ms"] is not None) == (row["product_gflop"] is not None) == ours
        if ours:
            assert row["kernels_ms"] == pytest.approx({"products": 1e-3, "ours": 0, "others": 1e-3, "busy": 2e-3})
    text = (out / "bench.md").read_text()
    assert "### Where the GPU's time goes" in text
    assert "### Kernels of the native blocks" in text


def test_blocks_are_measured(record):
    rows = [row for row in record["rows"] if row["bench"] == "op"]
    assert {row["who"] for row in rows} == set(blocks.implementations("cpu"))
    assert {row["subject"] for row in rows} == {block.name for block in blocks.QUICK}
    assert all(row["rounds"] and row["parity"]["values"] < parity.TOLERANCE for row in rows)


def test_curves_over_the_tasks_are_measured_and_drawn(record, out):
    rows = [row for row in record["rows"] if row["bench"] == "scaling"]
    assert [(row["what"], row["at"], row["rounds"] > 0) for row in rows] == [
        (what, at, True) for what in (WHOLE, REPLAYED) for at in (1, 2)
    ]
    assert {"bench.json", "bench.md", "bench.png", "scaling.png"} <= {path.name for path in out.iterdir()}


def test_the_floor_is_the_gpus(record):
    assert list(record["sgemm_gflops"]) == ["torch.mm on cuda, tf32"]
    assert record["machine"]["gpu"] == "Slide Rule 7"

"""What the benchmarks' report says."""

from __future__ import annotations

import io
import json

import measurements
import pytest
import report
from bench_record import make_record, table_row
from PIL import Image

pytestmark = pytest.mark.backendless


def test_record_has_medians_quartiles_and_floor():
    record = json.loads(json.dumps(make_record(), allow_nan=False))
    row = record["rows"][0]
    assert record["floor_gflops"] == 100
    assert (row["median_ms"], row["quartiles_ms"], row["rounds"]) == (11, [10.5, 11.5], 3)
    assert row["times_ms"] == [10, 12, 11]
    assert (row["gflop"], row["floor_ms"], row["over_floor"]) == (0.5, 5.0, pytest.approx(2.2))
    vmap = next(row for row in record["rows"] if row["who"] == "torch.func.vmap")
    assert (vmap["skipped"], vmap["median_ms"]) == ("needs about 10.0 GiB of memory", None)
    assert "W7" not in {row["subject"] for row in record["rows"]}


def test_sweeps_add_to_one_row():
    found = measurements.Measurements()
    for seconds in ([1.0], [3.0, 2.0]):
        found.row("op", "a", "b", "c").seconds += seconds
    assert found.record({}, {"numpy": 1.0})["rows"][0]["times_ms"] == [1000, 3000, 2000]


def test_tables_have_ratios_to_ours_and_to_the_floor():
    text = report.markdown(make_record())
    ours = ["**maml_fast**", "11.0 (10.5–11.5)", "1.00×", "2.20×", "77", "1e-15, 2e-13"]
    loop = ["per-task PyTorch loop", "44.0 (42.0–46.0)", "4.00×", "8.80×", "77", "1e-15, 2e-13"]
    assert table_row(text, "| **maml_fast**") == ours
    assert table_row(text, "| per-task PyTorch loop") == loop
    op = ["block 7", "backward", "6.00 (6.00–6.00)", "2.00 (2.00–2.00)", "3.00×", "2.00×", "3e-16"]
    assert table_row(text, "| block 7") == op
    assert table_row(text, "| W9       | make")[-2:] == ["0.110 (0.110–0.110)", "1.00%"]
    assert table_row(text, "| W9       |               4")[-2:] == ["13.0 (13.0–13.0)", "55"]
    assert table_row(text, "| W9       |    64")[-4:] == ["160 (160–160)", "2.5", "2.00×", "57"]


def test_algorithms_have_a_row_each_that_says_what_ran():
    text = report.markdown(make_record())
    anil = ["anil", "3.00 (3.00–3.00)", "12.0 (12.0–12.0)", "4.00×", "31 / 125", "2e-15, 3e-14", "fused blocks: 4"]
    assert table_row(text, "| anil") == anil
    assert table_row(text, "| boil") == ["boil", "failed", "–", "–", "– / –", "–", "–"]
    assert "## Algorithms\n\na common net. " in text
    assert "*Parity* is in float64. boil: a small net.\n" in text
    assert "### Failed\n\n- maml_fast on boil: maml_fast on A-boil failed\n" in text


def test_summary_names_the_best_peer_and_what_is_not_blocks():
    best = "4.00× per-task PyTorch loop"
    expected = ["W9", "a net", "**11.0 (10.5–11.5)**", "2.20×", best, "4.00×", "–", "20.0%", "5.0%"]
    assert table_row(report.markdown(make_record()), "| W9 |") == expected


def test_who_did_not_run_is_named_with_the_reason():
    text = report.markdown(make_record())
    assert "### Not run\n\n- torch.func.vmap: needs about 10.0 GiB of memory\n" in text
    assert "### Failed\n\n- higher: higher on W9 was killed by SIGSEGV\n" in text
    assert table_row(text, "| higher")[1] == "failed"
    assert "W8" not in text  # of it nothing else is known


def test_scaling_tells_of_cliffs_and_ratios():
    """At 4 tasks 3 ms a task, at 2 and 8 tasks 2 ms; the floor is 1 ms a task."""
    text = report.markdown(make_record())
    assert table_row(text, "| tasks |") == ["tasks", "forward", "2.00× at 2", "4.00× at 1", "1.50× at 4"]
    assert table_row(text, "| float64 ÷ float32") == ["float64 ÷ float32", "forward", "2.50×"]


def test_says_where_and_with_what():
    text = report.markdown(make_record())
    for fact in (
        "Abacus 9000, 6 cores, 5 threads",
        "2031-02-03",
        "backend native (avx9 kernels)",
        "Python 3.12.1, torch 2.99, NumPy 2.1, higher 0.2.1",
        "load average 0.2 before and 3.8 after",
        "sgemm peak 100 GFLOP/s (NumPy 100, torch 60)",
    ):
        assert fact in text
    assert "> " not in text


@pytest.mark.parametrize(
    ("change", "notice"),
    [
        (
            {"backend": {"name": "reference", "reason": "no C++ compiler found"}},
            "> **The native kernels are not active**, so maml_fast ran on pure PyTorch here: no C++ compiler",
        ),
        ({"complete": False}, "> **Not everything was run, or something failed**"),
        ({"settings": {"quick": True, "sweeps": 1, "seconds": 0.05}}, "> Quick mode"),
    ],
)
def test_notices_come_first(change, notice):
    head, first, *_ = report.markdown(make_record(**change)).split("\n\n")
    assert head.startswith("# ")
    assert first.startswith(notice)


def test_writes_tables_and_pictures(tmp_path):
    names = report.write(make_record(), tmp_path)
    assert names == ["bench.json", "bench.md", "bench.png", "scaling.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert json.loads((tmp_path / "bench.json").read_text()) == make_record()
    for name in names[2:]:
        image = Image.open(io.BytesIO((tmp_path / name).read_bytes()))
        assert image.width > 500
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_on_a_gpu_it_is_named_with_its_precision(tmp_path):
    record = make_record(device="cuda", precision="tf32", sgemm_gflops={"torch.mm on cuda, tf32": 400000.0})
    text = report.markdown(record)
    assert "- Slide Rule 7, products of float32 in TF32; Abacus 9000, 6 cores, 5 threads, Linux\n" in text
    assert "(torch.mm on cuda, tf32 400000)" in text
    assert "*Peak* is what PyTorch's tensors add on the GPU" in text
    assert "Slide Rule" not in report.markdown(make_record())
    assert "bench.png" in report.write(record, tmp_path)


def test_what_was_not_measured_has_no_picture(tmp_path):
    record = make_record()
    record["rows"] = [row for row in record["rows"] if row["bench"] == "op"]
    assert report.write(record, tmp_path) == ["bench.json", "bench.md"]

"""From a profiler's events to whose kernels take a GPU's time, and how near its peak they run."""

from __future__ import annotations

from types import SimpleNamespace

import bench_gpu_scaling
import bench_iteration
import bench_op
import blocks
import gpu_kernels
import gpu_products
import gpu_sections
import pytest
import report
import torch
import workloads
from bench_record import make_record, table_row
from child import ChildError
from gpu_kernels import KernelTimes, NoTraceError, times_of
from measurements import Measurements, Row
from peers import GRAPHED, OURS
from place import Place
from scaling import REPLAYED, WHOLE
from torch.profiler import ProfilerActivity

pytestmark = pytest.mark.backendless

PRODUCT = (
    "void maml_fast::cuda::MultiplyKernel<maml_fast::cuda::TensorMath<maml_fast::cuda::Tf32>, "
    "maml_fast::cuda::(anonymous namespace)::ForwardProduct<float>, 4, 4>(...)"
)
NORM = "void maml_fast::cuda::(anonymous namespace)::NormPool<float>(...)"
ADAM = "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>"


def kernel(name, start, microseconds, cat="kernel"):
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": microseconds}


def test_kernels_are_told_apart_by_their_names():
    events = [
        kernel(PRODUCT, 100, 30),
        kernel(NORM, 130, 10),
        kernel(ADAM, 150, 4),
        kernel("Memcpy HtoD (Pinned -> Device)", 160, 2, cat="gpu_memcpy"),
        kernel("Memset (Device)", 170, 2, cat="gpu_memset"),
        kernel(PRODUCT, 200, 50),
    ]
    assert times_of(events, 2) == pytest.approx(KernelTimes(40e-6, 5e-6, 4e-6, busy=49e-6))


def test_what_is_no_work_of_the_gpu_does_not_count():
    """An annotation's span on the GPU holds kernels that are counted already."""
    others = [
        kernel("Optimizer.step#Adam.step", 0, 1000, cat="gpu_user_annotation"),
        kernel("cudaLaunchKernel", 0, 500, cat="cuda_runtime"),
        kernel("aten::conv2d", 0, 500, cat="cpu_op"),
        {"ph": "M", "name": "process_name", "args": {}},
    ]
    assert times_of([*others, kernel(NORM, 5, 10)], 1) == pytest.approx(KernelTimes(0, 10e-6, 0, busy=10e-6))
    with pytest.raises(NoTraceError, match="saw no kernel: it needs CUPTI"):
        times_of(others, 1)


def test_kernels_side_by_side_are_busy_once():
    events = [kernel(NORM, 0, 10), kernel(PRODUCT, 2, 4), kernel(ADAM, 8, 6), kernel(ADAM, 20, 1)]
    found = times_of(events, 1)
    assert found.busy == pytest.approx(15e-6)
    assert found.products + found.ours + found.others == pytest.approx(21e-6)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_without_a_gpu_there_is_no_trace():
    if not torch.cuda.is_available():
        with pytest.raises(NoTraceError, match="can't trace here"):
            gpu_kernels.measure(lambda: None)


def test_the_profilers_own_file_is_read(monkeypatch):
    """The real one, of the CPU alone: it has no kernels in it."""
    monkeypatch.setattr(gpu_kernels, "ACTIVITIES", (ProfilerActivity.CPU,))
    found = []
    monkeypatch.setattr(gpu_kernels, "times_of", lambda events, calls: found.extend(events))
    called = []
    gpu_kernels.measure(lambda: called.append(torch.ones(3, 3).mm(torch.ones(3, 3))))
    assert len(called) == 1 + gpu_kernels.CALLS
    products = [event for event in found if event["name"] == "aten::mm"]
    assert len(products) == gpu_kernels.CALLS
    assert all(event["cat"] == "cpu_op" and event["dur"] > 0 and event["ts"] > 0 for event in products)
    with pytest.raises(NoTraceError, match="saw no kernel"):
        times_of(found, gpu_kernels.CALLS)


def test_a_profiler_that_fails_is_told(monkeypatch):
    def fail(**_):
        raise RuntimeError("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES")

    monkeypatch.setattr(gpu_kernels, "profile", fail)
    with pytest.raises(NoTraceError, match="can't trace here: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"):
        gpu_kernels.measure(lambda: None)


def raising(error):
    def call(*_):
        raise error

    return call


def test_a_row_is_kept_when_it_can_not_be_traced(monkeypatch):
    row = Row("iteration", "W9", "a net", OURS.title)
    bench_iteration.note_kernels(row, workloads.QUICK[1], SimpleNamespace(call=raising(ChildError("it died"))))
    assert (row.kernels, row.untraced, row.failed) == (None, "it died", None)
    row = Row("op", "a block", "forward", "native", flops=8.0)
    monkeypatch.setattr(gpu_kernels, "measure", raising(NoTraceError("no CUPTI")))
    bench_op.note_kernels(row, lambda: None)
    assert (row.kernels, row.untraced) == (None, "no CUPTI")


def test_a_row_takes_the_kernels_of_the_convolutions_with_their_flops(monkeypatch):
    found = KernelTimes(4e-3, 2e-3, 1e-3, 7e-3)
    workload = workloads.QUICK[1]
    row = Row("iteration", "W9", "a net", OURS.title)
    bench_iteration.note_kernels(row, workload, SimpleNamespace(call=lambda method: found._asdict()))
    assert (row.kernels, row.product_flops) == (found._asdict(), workload.convolution_flops())
    row = Row("op", "a block", "forward", "native", flops=8.0)
    monkeypatch.setattr(gpu_kernels, "measure", lambda run: found)
    bench_op.note_kernels(row, lambda: None)
    assert (row.kernels, row.product_flops) == (found._asdict(), 8.0)


def gpu_record():
    """W9 in 10 ms, of which 4 are products, at 100 TFLOP/s where the peak is 400; replayed in 8 ms."""
    found = Measurements()
    for who, milliseconds in ((OURS.title, 10), (GRAPHED.title, 8), ("per-task PyTorch loop", 400)):
        row = found.row("iteration", "W9", "a net", who)
        row.seconds, row.flops, row.peak_mib = [1e-3 * milliseconds], 450e9, 77.4
        row.parity = {"loss": 1e-15, "gradient": 2e-13, "float32_loss": 0.0}
        if who == OURS.title:
            row.kernels, row.product_flops = KernelTimes(4e-3, 2e-3, 1e-3, 7e-3)._asdict(), 400e9
        elif who == GRAPHED.title:
            row.untraced = "no CUPTI"
    for block in blocks.QUERY_OF_W3:
        row = found.row("op", block.name, "backward", "native")
        row.seconds, row.flops, row.parity = [3e-3], 200e9, {"values": 1e-16}
        row.kernels, row.product_flops = KernelTimes(1e-3, 1e-3, 0.5e-3, 2.5e-3)._asdict(), 200e9
    for what, factor in ((WHOLE, 2), (REPLAYED, 1)):
        for tasks in (1, 2, 4):
            row = found.row("scaling", "tasks", what, "float32", tasks)
            row.seconds, row.flops, row.tasks, row.peak_mib = [1e-3 * factor * tasks], tasks * 1e9, tasks, 5.0 * tasks
        row = found.row("scaling", "tasks", what, "float32", 8)
        row.flops, row.tasks, row.skipped = 8e9, 8, "8 tasks are too many for the GPU's memory"
    about = make_record(device="cuda", precision="tf32")
    kept = {name: value for name, value in about.items() if name not in ("rows", "sgemm_gflops", "floor_gflops")}
    return found.record(kept, {"torch.mm on cuda, tf32": 400e3})


def test_the_report_says_where_the_time_goes():
    text = report.markdown(gpu_record())
    line = ["W9", "maml_fast", "7", "40.0%", "20.0%", "10.0%", "30.0%", "100.0", "25.0%"]
    assert table_row(text, "| W9       | maml_fast | ") == line
    assert "Not traced:\n\n- no CUPTI\n" in text


def test_the_report_has_the_query_set_of_w3_in_one_line():
    text = report.markdown(gpu_record())
    whole = ["W3's query set, all four blocks", "backward", "10", "33.3%", "33.3%", "16.7%", "16.7%", "200.0", "50.0%"]
    assert table_row(text, "| W3's query set") == whole


def test_of_a_part_of_the_query_set_there_is_no_sum():
    rows = [row for row in gpu_record()["rows"] if row["bench"] == "op"]
    assert "query set, all" in gpu_sections.block_kernels(rows, 1.0)
    assert "query set, all" not in gpu_sections.block_kernels(rows[1:], 1.0)
    assert gpu_sections.block_kernels([{**row, "kernels_ms": None} for row in rows], 1.0) == ""


def test_without_our_products_there_is_no_rate():
    (row,) = [row for row in gpu_record()["rows"] if row["who"] == OURS.title]
    row["kernels_ms"]["products"] = 0.0
    assert table_row(gpu_sections.iteration_kernels([row], 1.0), "| W9")[-2:] == ["–", "–"]


def test_both_forms_are_ours_in_the_report(tmp_path):
    record = gpu_record()
    text = report.markdown(record)
    assert "not convolutions" not in text
    summary = text.split("## Summary")[1]
    assert table_row(summary, "| W9 |")[2:6] == [
        "**10.0 (10.0–10.0)**",
        "8.89×",
        "40.0× per-task PyTorch loop",
        "40.0×",
    ]
    assert table_row(summary, "|    | maml_fast, CUDA graph")[5] == "50.0×"
    table = text.split("## Meta-training iteration")[1]
    assert table_row(table, "| who")[2:4] == ["÷ maml_fast", "÷ maml_fast, CUDA graph"]
    assert table_row(table, "| per-task PyTorch loop")[2:4] == ["40.0×", "50.0×"]
    assert table_row(table, "| **maml_fast, CUDA graph**")[2:4] == ["0.80×", "1.00×"]
    assert "torch.backends.cudnn.benchmark" in text
    assert "Everybody's products of float32 are in TF32" in text
    assert {"bench.png", "scaling.png"} <= set(report.write(record, tmp_path))


def test_curves_over_the_tasks_are_in_the_report():
    text = report.markdown(gpu_record()).split("## Scaling")[1]
    assert table_row(text, f"| tasks | {WHOLE}  ") == ["tasks", WHOLE, "800× at 1", "800× at 4", "–"]
    assert table_row(text, f"| {REPLAYED} |     1") == [REPLAYED, "1", "1.00 (1.00–1.00)", "1", "400×", "5"]
    assert f"- {REPLAYED} at 8 tasks: 8 tasks are too many for the GPU's memory" in text


class Gpu:
    """A contestant's process, with memory for four tasks."""

    def __init__(self, error):
        self.error, self.calls = error, []

    def call(self, method, *arguments):
        self.calls.append((method, *arguments))
        if method == "begin_anew":
            self.tasks = arguments[0]
        if self.tasks > 4 and method != "begin_anew":
            raise self.error
        return [1e-3 * self.tasks] if method == "times" else 5.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def asked():
    return SimpleNamespace(quick=False, sweeps=1, seconds=0.1, place=Place(torch.get_num_threads()))


def test_what_does_not_fit_ends_the_curve_and_is_named(monkeypatch, asked):
    too_large = ChildError("it failed", ["RuntimeError", "OutOfMemoryError"])
    gpu = Gpu(too_large)
    monkeypatch.setattr(bench_gpu_scaling, "Child", lambda *_: gpu)
    found = Measurements()
    bench_gpu_scaling.test_tasks(OURS, found, asked)
    rows = found.record({}, {"a": 1.0})["rows"]
    assert [row["at"] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert [row["at"] for row in rows if row["rounds"]] == [1, 2, 4]
    assert {row["skipped"] for row in rows[3:]} == {"8 tasks are too many for the GPU's memory"}
    assert max(call[1] for call in gpu.calls if call[0] == "begin_anew") == 8
    assert rows[2]["gflop"] == pytest.approx(4 * rows[0]["gflop"])


def test_another_error_is_no_lack_of_memory(monkeypatch, asked):
    monkeypatch.setattr(bench_gpu_scaling, "Child", lambda *_: Gpu(ChildError("an illegal access", ["RuntimeError"])))
    found = Measurements()
    with pytest.raises(ChildError, match="an illegal access"):
        bench_gpu_scaling.test_tasks(OURS, found, asked)
    assert found.row("scaling", "tasks", WHOLE, "float32", 8).failed == "an illegal access"


def test_the_curve_runs(asked):
    """In a process of its own, on the CPU."""
    asked.quick = True
    found = Measurements()
    bench_gpu_scaling.test_tasks(OURS, found, asked)
    rows = found.record({}, {"a": 1.0})["rows"]
    assert [(row["at"], row["rounds"] > 0, row["peak_mib"] > 0) for row in rows] == [(1, True, True), (2, True, True)]


def test_nsight_is_shown_each_block_once_after_a_warm_up(monkeypatch):
    happened = []
    monkeypatch.setattr(gpu_products.native, "has_cuda_kernels", lambda: True)
    monkeypatch.setattr(gpu_products, "run", lambda block: happened.append(block.number))
    for module, name in ((torch.cuda, "synchronize"), (torch.cuda.profiler, "start"), (torch.cuda.profiler, "stop")):
        monkeypatch.setattr(module, name, lambda name=name: happened.append(name))
    monkeypatch.setattr(Place, "keep_to", lambda place: happened.append(place.precision))
    gpu_products.main([])
    each = [1, 2, 3, 4]
    assert happened == ["tf32", *each, "synchronize", "start", *each, "synchronize", "stop"]


def test_the_program_for_nsight_needs_our_kernels(monkeypatch):
    monkeypatch.setattr(gpu_products.native, "has_cuda_kernels", lambda: False)
    with pytest.raises(SystemExit, match=r"gpu_products\.py: error: no kernels for GPUs"):
        gpu_products.main([])


def test_the_program_for_nsight_runs(capsys):
    gpu_products.main(["--device", "cpu", "--images", "1"])
    assert "4 blocks, forward and backward, ran on cpu" in capsys.readouterr().out

"""The benchmarks on a GPU, as far as a machine without one can tell: plumbing, precision, obstacles, bad input."""

from __future__ import annotations

import re
from dataclasses import replace

import blocks
import gpu_sanitize
import memory
import parity
import pytest
import rounds
import sgemm
import torch
import workloads
from bench_command import run_here, settings_of
from measurements import Row
from peers import GRAPHED, OURS, TRUTH, jax, of_use_on
from peers import named as peer_named
from peers.block import per_task_block
from peers.metalearn import MetaLearn
from peers.processes import Processes
from place import Place
from timing import Timer
from wrong_peers import OnlyFloat32IsWrong

from maml_fast import _reference as reference
from maml_fast import native
from maml_fast.cli import _benchmark as benchmark

pytestmark = pytest.mark.backendless

Q1, Q2 = workloads.QUICK


@pytest.fixture
def gpu(monkeypatch):
    """Torch says that there is one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Slide Rule 7")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (80 * 2**30, 80 * 2**30))
    return monkeypatch


@pytest.fixture
def restored():
    """PyTorch's settings, as they were before the test."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    yield
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])
    cudnn.allow_tf32, cudnn.benchmark = before[2:]


def test_settings_put_the_workloads_on_the_device(gpu):
    asked = settings_of(device="cuda", precision="tf32")
    assert asked.place == Place(torch.get_num_threads(), "cuda", "tf32")
    assert asked.workloads == tuple(replace(workload, device="cuda") for workload in workloads.QUICK)
    assert settings_of().workloads == workloads.QUICK


def test_a_gpu_without_tf32_is_refused(gpu):
    gpu.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert settings_of(device="cuda").place.precision == "exact"
    with pytest.raises(pytest.UsageError, match="Slide Rule 7 has none, it came with sm_80; use --precision exact"):
        settings_of(device="cuda", precision="tf32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "ERROR: --device cuda: torch .* finds no CUDA device; install .* or use --device cpu"),
        ({"precision": "tf32"}, "ERROR: --precision tf32 is for GPUs alone: add --device cuda, or leave it out"),
        ({"device": "tpu"}, "argument --device: invalid choice: 'tpu'"),
    ],
)
def test_what_can_not_be_had_is_one_line_and_leaves_nothing(options, message, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_here(out=tmp_path / "new", **options) == pytest.ExitCode.USAGE_ERROR
    assert re.search(message, capfd.readouterr().err)
    assert not (tmp_path / "new").exists()


def test_what_a_gpu_can_run_is_collected_and_the_rest_is_named(gpu, tmp_path, capfd):
    options = {"device": "cuda", "precision": "tf32", "workloads": "F,W1", "peers": "loop", "sweeps": 1}
    assert run_here(out=tmp_path / "new", pytest_arguments=["--collect-only"], **options) == 0
    told = capfd.readouterr().out
    there = {"bench_iteration.py", "bench_op.py", "bench_gpu_scaling.py"}
    assert set(re.findall(r"<Module (\w+\.py)>", told)) == there
    expected = [f"{workload}-{peer}-0" for workload in ("W1", "F") for peer in ("maml_fast", "maml_fast-graph", "loop")]
    assert re.findall(r"test_iteration\[(.+)\]", told) == expected
    assert re.findall(r"test_tasks\[(.+)\]", told) == ["maml_fast-0", "maml_fast-graph-0"]
    who = set(re.findall(r"test_op\[.+-(per-task torch|reference|native)-0\]", told))
    assert who == {"per-task torch", "reference"} | ({"native"} if native.has_cuda_kernels() else set())
    left_out = dict(re.findall(r"left out: (bench_\w+)\.py \((.+)\)", told))
    others = {"algorithms", "chunks", "inner_memory", "many_tasks", "sampler", "scaling", "zoo"}
    assert set(left_out) == {f"bench_{name}" for name in others}
    assert set(left_out.values()) == {"it measures the CPU"}
    assert re.search(r"device: cuda, \d+ threads, precision tf32", told)
    if not native.has_cuda_kernels():
        assert "maml_fast backend: reference (" in told


@pytest.mark.parametrize("precision", ["exact", "tf32"])
def test_a_place_decides_on_the_products_of_all(precision, restored):
    Place(1, "cuda", precision).keep_to()
    is_tf32 = precision == "tf32"
    assert torch.get_num_threads() == 1
    assert (torch.backends.cuda.matmul.fp32_precision == "tf32") == is_tf32
    assert (torch.backends.cudnn.conv.fp32_precision == "tf32") == is_tf32
    assert torch.backends.cudnn.allow_tf32 == is_tf32
    assert torch.backends.cudnn.benchmark
    assert jax.PRECISIONS[torch.get_float32_matmul_precision()] == ("tensorfloat32" if is_tf32 else "highest")


def test_a_workload_has_its_tensors_on_its_device():
    there = replace(Q2, device="meta")
    start = there.start(torch.float64)
    tensors = [*start, *there.model_at(start).parameters(), *there.torch_model(start).parameters()]
    tensors += [*there.episodes(torch.float64)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {tensor.dtype for tensor in tensors} == {torch.float64, torch.int64}
    assert there.of_tasks(1).device == "meta"
    assert there.flops() == Q2.flops()
    assert {Q2.start(torch.float32)[0].device.type, Q2.episodes().x_spt.device.type} == {"cpu"}


@pytest.mark.parametrize("name", ["loop", "vmap", "higher", "torchopt"])
def test_a_peer_stays_on_the_device(name, monkeypatch):
    """On a device without values: a tensor from the CPU in between would be an error."""
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, fused, **options: adam(parameters, **options))
    peer, there = peer_named(name), replace(Q1, order=2, device="meta")
    if (obstacle := peer.obstacle(there)) is not None:
        assert "not installed" in obstacle
        return
    learner = peer(there, there.start(torch.float32))
    assert learner.iteration(there.episodes()).device.type == "meta"
    assert {parameter.grad.device.type for parameter in learner.parameters} == {"meta"}


@pytest.mark.parametrize("until", blocks.PASSES)
@pytest.mark.parametrize("block", settings_of().blocks, ids=lambda block: block.name)
def test_a_block_stays_on_the_device(block, until):
    there = replace(block, device="meta")
    for conv_block in (per_task_block, reference.conv_block):
        results = blocks.run(there, conv_block, there.tensors(torch.float32), until)
        assert {each.device.type for each in results} == {"meta"}


def test_blocks_are_put_on_the_device(gpu):
    assert {block.device for block in settings_of(device="cuda").blocks} == {"cuda"}
    assert settings_of().blocks == blocks.QUICK


def test_native_blocks_on_a_gpu_are_its_own_kernels(monkeypatch):
    for has_kernels in (False, True):
        monkeypatch.setattr(native, "has_cuda_kernels", lambda has=has_kernels: has)
        assert ("native" in blocks.implementations("cuda")) == has_kernels


def test_rounds_of_a_block_end_when_the_gpu_is_done(monkeypatch):
    happened = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("waited"))

    class Benchmark:
        stats = None

        def pedantic(self, function, setup, rounds, iterations):
            happened.clear()
            arguments, options = setup()
            function(*arguments, **options)

    Timer(Benchmark(), 1.0)(Row("op", "a", "b", "c"), happened.append, "called")
    assert happened == ["called", "waited"]


def test_who_is_for_another_device_is_not_heard_of(gpu):
    on_cpu, on_cuda = set(settings_of().peers), set(settings_of(device="cuda").peers)
    assert on_cpu - on_cuda == {Processes, MetaLearn}
    assert on_cuda - on_cpu == {GRAPHED, jax.JaxVmapConv}
    assert settings_of(device="cuda", peers="loop").peers == (OURS, GRAPHED, TRUTH)
    with pytest.raises(pytest.UsageError, match="there is no 'maml_fast-graph'"):
        settings_of(peers="maml_fast-graph")


def test_everyone_on_a_gpu_is_thought_to_need_memory():
    """maml_fast has all tasks at once there."""
    w3 = replace(workloads.named("W3-order2"), device="cuda")
    needed = {peer.name: peer.memory_needed(w3) for peer in of_use_on("cuda")}
    assert needed["loop"] < needed["maml_fast"] < needed["vmap"]


def test_shortage_is_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * 2**30, 80 * 2**30))
    assert memory.shortage(8 * 2**30, "cuda") is None
    assert memory.shortage(9.5 * 2**30, "cuda") == "needs about 9.5 GiB of GPU memory, 10.0 GiB are available"


def test_peak_is_beyond_what_was_there_before_the_learner(monkeypatch):
    held = {"now": 3 * 2**20, "peak": 99 * 2**20}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: held.update(peak=held["now"]))
    meter = memory.meter("cuda")
    meter.forget_peak()
    held["peak"] = 8 * 2**20
    assert meter.added_mib() == 5


def test_the_clock_waits_for_a_gpu_in_use(monkeypatch):
    happened = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("waited"))
    assert rounds.seconds_of(lambda: happened.append("called")) >= 0
    assert happened == ["waited", "called", "waited"]


def test_the_floor_is_by_the_device_at_its_precision(monkeypatch):
    assert set(sgemm.peaks(Place(1), 16)) == {"numpy", "torch"}
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, device: rand(*size))  # there is no GPU
    assert all(gflops > 0 for gflops in sgemm.peaks(Place(1), 16).values())
    (found,) = sgemm.peaks(Place(1, "cuda", "tf32"), 16).items()
    assert found[0] == "torch.mm on cuda, tf32"
    assert found[1] > 0


def test_a_loss_in_tf32_may_part_further(monkeypatch):
    """It is 10 % off; in float64 nothing is."""
    assert parity.check(Q2, OnlyFloat32IsWrong, precision="tf32").float32_loss == pytest.approx(0.1, rel=1e-2)
    with pytest.raises(parity.ParityError, match="loss in float32"):
        parity.check(Q2, OnlyFloat32IsWrong)
    assert parity.check(Q2, TRUTH, precision="tf32").gradient < parity.TOLERANCE


def test_default_folder_names_gpu_and_precision(tmp_path, monkeypatch):
    machine = {"processor": "Abacus", "cores": 6, "gpu": "NVIDIA H100 80GB HBM3"}
    monkeypatch.setattr(benchmark, "describe_machine", lambda device: machine)
    folder = benchmark.default_out(tmp_path, device="cuda", precision="tf32")
    assert folder.name[10:] == "-nvidia-h100-80gb-hbm3-tf32"
    machine["gpu"] = None  # then the suite itself says what is wrong
    assert benchmark.default_out(tmp_path, device="cuda").name[10:] == "-cuda-exact"


def test_the_program_for_sanitizers_runs(capsys):
    gpu_sanitize.main(["--device", "cpu"])
    assert "all ran on cpu" in capsys.readouterr().out

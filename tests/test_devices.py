"""What is said about devices, whatever this machine has: those that disagree, are not here, or have no kernels."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from episode_samplers import ragged_bank
from small import conv_net, make_episodes
from torch._subclasses.fake_tensor import FakeTensorMode

from maml_fast import MAML, native, ops
from maml_fast.data._episodes import EpisodeSampler
from maml_fast.models import Conv4
from maml_fast.native import _cuda_toolkit
from maml_fast.native._cuda_toolkit import CudaToolkit, find_cuda_toolkit
from maml_fast.ops import _conv_block
from maml_fast.ops._conv_block import Arithmetic, Geometry

CUDA = torch.device("cuda")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_block_refuses_parameters_from_elsewhere() -> None:
    x, weight = torch.zeros(1, 2, 3, 8, 8), torch.zeros(1, 4, 3, 3, 3)
    with pytest.raises(TypeError, match=r"weight is torch.float32 on meta but x is torch.float32 on cpu.*\.to\(\)"):
        ops.conv_block(x, weight.to("meta"))


def test_maml_refuses_episodes_from_elsewhere() -> None:
    with pytest.raises(ValueError, match=r"x_spt is on meta, the model on cpu; move one of them"):
        MAML(conv_net())(make_episodes().to("meta"))


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("meta", ValueError, "device must be cpu or cuda, got meta"),
        ("cuda", RuntimeError, "device cuda was asked for, but torch finds no CUDA device; use device cpu"),
        ("cuda:3", RuntimeError, "device cuda:3 was asked for"),
    ],
)
def test_sampler_refuses_devices_that_are_not_here(device: str, error: type, message: str, no_gpu: None) -> None:
    with pytest.raises(error, match=message):
        EpisodeSampler(ragged_bank([3, 3]), 2, 1, 1, 1, device=device)


def test_devices_without_kernels_are_named() -> None:
    x = SimpleNamespace(device=CUDA, dtype=torch.float32)
    weight = torch.zeros(1, 4, 3, 3, 3)
    if not native.has_cuda_kernels():
        assert "no kernels were compiled" in str(ops.native_obstacle(x, weight, 1, 2))
    assert ops.native_obstacle(SimpleNamespace(device=torch.device("meta")), weight, 1, 2).startswith("device meta")


@pytest.mark.native
@pytest.mark.parametrize("order", [1, 2])
def test_an_iteration_reads_nothing_back(order: int, monkeypatch) -> None:
    """Tensors without values, as on a GPU whose work is only queued: whoever asks for one fails."""
    monkeypatch.setattr(ops, "native_obstacle", lambda *_: None)
    model = Conv4().to("meta")
    maml = MAML(model, inner_lr=0.4, inner_steps=2, order=order)
    optimizer = torch.optim.Adam(maml.parameters())
    out = maml(make_episodes(shape=(1, 28, 28), dtype=torch.float32).to("meta"), per_step=True)
    assert "operation by operation (on meta" in maml.describe()
    assert "in memory: all tasks" in maml.describe()
    out.loss.backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        out.loss.item()


SETTINGS = {  # PyTorch's setting for float32, autocast's type, and what a GPU of this capability then does
    "exact": ("highest", None, (9, 0), Arithmetic.EXACT),
    "TF32": ("high", None, (9, 0), Arithmetic.TF32),
    "medium": ("medium", None, (8, 0), Arithmetic.TF32),
    "bfloat16": ("highest", torch.bfloat16, (8, 0), Arithmetic.BFLOAT16),
    "float16": ("high", torch.float16, (8, 6), Arithmetic.FLOAT16),
}


@pytest.mark.parametrize(("precision", "half", "capability", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_arithmetic_follows_torch(precision, half, capability, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(ops, "_has_tensor_cores", ops._has_tensor_cores.__wrapped__)
    assert arithmetic(precision, half, torch.float32) == expected
    assert arithmetic(precision, half, torch.float64) == Arithmetic.EXACT
    assert ops._arithmetic(torch.zeros(1)) == Arithmetic.EXACT


@pytest.mark.native
def test_older_gpus_multiply_exactly_and_say_so(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a Turing")
    monkeypatch.setattr(ops, "_has_tensor_cores", ops._has_tensor_cores.__wrapped__)
    monkeypatch.setattr(ops, "_announced", set())
    monkeypatch.setattr(native, "has_cuda_kernels", lambda: True)
    run: list[Geometry] = []
    monkeypatch.setattr(_conv_block, "conv_block", lambda *arguments: (run.append(arguments[-1]),))
    with FakeTensorMode():  # of tensors on a GPU that need not be there
        x, weight = torch.zeros(1, 2, 3, 8, 8, device=CUDA), torch.zeros(1, 4, 3, 3, 3, device=CUDA)
    with (
        pytest.warns(RuntimeWarning, match="products stay exact on a Turing: TF32 needs sm_80 or later") as caught,
        products("high", None),
    ):
        ops.conv_block(x, weight)
    assert [geometry.arithmetic for geometry in run] == [Arithmetic.EXACT]
    assert [warning.filename for warning in caught] == [__file__]


def arithmetic(precision: str, half: torch.dtype | None, dtype: torch.dtype) -> Arithmetic:
    with products(precision, half):
        return ops._arithmetic(SimpleNamespace(device=CUDA, dtype=dtype))


@contextmanager
def products(precision: str, half: torch.dtype | None) -> Iterator[None]:
    """PyTorch's settings for products on a GPU, for a while."""
    before = torch.get_float32_matmul_precision()
    was_on, was_half = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_float32_matmul_precision(precision)
    torch.set_autocast_enabled("cuda", half is not None)  # torch.autocast itself wants a GPU
    torch.set_autocast_dtype("cuda", half or was_half)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_autocast_enabled("cuda", was_on)
        torch.set_autocast_dtype("cuda", was_half)


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path) -> pytest.MonkeyPatch:
    """A torch for CUDA 13.0 on a machine with a GPU of capability 9.0, and an nvcc that answers like one."""
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.1'\n")
    nvcc.chmod(0o755)
    for name in ("MAML_FAST_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_cuda_toolkit, "_architectures_here", lambda: ["9.0"])
    return monkeypatch


def test_toolkit_is_found(toolkit, tmp_path) -> None:
    found = find_cuda_toolkit()
    assert isinstance(found, CudaToolkit)
    assert str(found) == "nvcc 13.0 for 9.0"
    assert found.home == str(tmp_path / "cuda")


def test_kernels_for_gpus_may_be_left_out(toolkit) -> None:
    toolkit.setenv("MAML_FAST_CUDA", "0")
    assert find_cuda_toolkit() == "MAML_FAST_CUDA=0 leaves them out"


def test_torch_for_the_cpu_needs_none(toolkit) -> None:
    toolkit.setattr(torch.version, "cuda", None)
    assert find_cuda_toolkit() == "this torch is for the CPU only"


def test_toolkit_of_another_cuda_is_refused(toolkit) -> None:
    toolkit.setattr(torch.version, "cuda", "12.8")
    assert "is of CUDA 13.0, but torch is for 12.8; set CUDA_HOME" in str(find_cuda_toolkit())


def test_missing_nvcc_is_named(toolkit) -> None:
    toolkit.setattr(_cuda_toolkit.shutil, "which", lambda *_, **__: None)
    assert "nvcc is missing: install the CUDA toolkit 13.0" in str(find_cuda_toolkit())


def test_machines_without_a_gpu_compile_for_none_unless_asked(toolkit) -> None:
    toolkit.setattr(_cuda_toolkit, "_architectures_here", list)
    assert "name them in TORCH_CUDA_ARCH_LIST" in str(find_cuda_toolkit())
    toolkit.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    assert str(find_cuda_toolkit()) == "nvcc 13.0 for 8.0"


ARCHITECTURES = {  # what TORCH_CUDA_ARCH_LIST says, of which GPUs are here, and what is compiled for
    "nothing said": ("", ["8.0", "9.0"], "8.0;9.0"),
    "a preset without this GPU": ("8.0", ["9.0"], "8.0;9.0"),
    "a preset with this GPU": ("8.0 9.0a+PTX", ["9.0"], "8.0;9.0a+PTX"),
    "a name": ("Hopper", ["8.6"], "Hopper;8.6"),
    "an old GPU beside": ("", ["7.0", "9.0"], "9.0"),
    "an old one in a preset": ("6.0;7.0;8.6", ["8.6"], "8.6"),
}


@pytest.mark.parametrize(("said", "here", "expected"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_compiles_for_the_gpus_here_whatever_is_preset(toolkit, said, here, expected) -> None:
    toolkit.setenv("TORCH_CUDA_ARCH_LIST", said)
    toolkit.setattr(_cuda_toolkit, "_architectures_here", lambda: here)
    assert str(find_cuda_toolkit()) == f"nvcc 13.0 for {expected}"


def test_a_gpu_that_is_too_old_is_named(toolkit) -> None:
    toolkit.setattr(_cuda_toolkit, "_architectures_here", lambda: ["7.0"])
    assert find_cuda_toolkit() == "the kernels need a GPU of compute capability 7.5 or later, not 7.0"


DRIVER = """
extern "C" int cuInit(unsigned) { return 0; }
extern "C" int cuDeviceGetCount(int* count) { *count = 2; return 0; }
extern "C" int cuDeviceGet(int* device, int index) { *device = 10 + index; return 0; }
extern "C" int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 9 : device == 10 ? 0 : 5;
  return attribute == 75 || attribute == 76 ? 0 : 1;
}
"""


def test_gpus_are_asked_for_in_another_process(monkeypatch, tmp_path) -> None:
    """One that has initialized CUDA can't use it in its forks."""
    source = tmp_path / "driver.cpp"
    source.write_text(DRIVER)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    for name in ("_lazy_init", "is_available", "device_count", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, None)
    assert _cuda_toolkit._architectures_here.__wrapped__() == ["9.0", "9.5"]


def test_no_driver_is_no_gpu(monkeypatch, tmp_path) -> None:
    (tmp_path / "libcuda.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert _cuda_toolkit._architectures_here.__wrapped__() == []

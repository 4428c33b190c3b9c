"""What ``maml-fast doctor`` says on a machine in order, and where something is missing."""

from __future__ import annotations

import pytest
import torch

from maml_fast.native import _build, _toolchain
from maml_fast.native import _doctor as doctor

pytestmark = [pytest.mark.usefixtures("fresh_backend"), pytest.mark.backendless]


@pytest.fixture
def no_library(monkeypatch) -> None:
    def fail(*arguments: object) -> None:
        raise _build.BuildError("no luck: try again")

    monkeypatch.setattr(_build, "ensure", fail)


def findings() -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.examine()}


def test_tells_torch_compiler_cpu_cuda_backend_and_cache(fresh_backend, monkeypatch):
    monkeypatch.setenv("MAML_FAST_BACKEND", "reference")
    fresh_backend.mkdir()
    (fresh_backend / "a.so").write_bytes(b"\0" * 2**20)
    told = findings()
    assert torch.__version__ in told["torch"].text
    assert str(_toolchain.find_compiler()) in told["compiler"].text
    assert f"{_toolchain.usable_cores()} of " in told["CPU"].text
    assert "no kernels for GPUs" in told["CUDA"].text or "nvcc" in told["CUDA"].text
    assert told["backend"].text == "reference (asked for by MAML_FAST_BACKEND)"
    assert told["cache"].text == f"{fresh_backend}, 1 libraries, 1.0 MiB"
    assert not any(finding.is_problem for finding in told.values())
    assert doctor.report().endswith("No problems found.")


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_every_arm_has_neon(monkeypatch, machine):
    monkeypatch.setattr(_toolchain.platform, "machine", lambda: machine)
    assert doctor._cpu().endswith(" cores, NEON")


def test_gpu_without_a_toolkit_is_a_problem(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(doctor, "find_cuda_toolkit", lambda: "nvcc is missing: install it")
    assert doctor._find("CUDA", doctor._cuda) == doctor.Finding(
        "CUDA", "a GPU, but no kernels for it: nvcc is missing: install it", is_problem=True
    )
    monkeypatch.setenv("MAML_FAST_CUDA", "0")
    assert not doctor._find("CUDA", doctor._cuda).is_problem


def test_missing_compiler_and_ninja_come_with_their_remedy(monkeypatch, tmp_path, no_library):
    import ninja

    monkeypatch.setattr(ninja, "BIN_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    told = findings()
    assert told["compiler"].is_problem
    assert "install g++" in told["compiler"].text
    assert told["ninja"].is_problem
    assert "pip install" in told["ninja"].text
    assert doctor.report().endswith("Problems: 3, marked with !")


@pytest.mark.parametrize("demanded", ["auto", "native"])
def test_unwanted_fallback_is_a_problem_and_says_why(monkeypatch, no_library, demanded):
    monkeypatch.setenv("MAML_FAST_BACKEND", demanded)
    backend = findings()["backend"]
    assert backend.is_problem
    assert "no luck: try again" in backend.text


def test_unknown_backend_is_a_problem(monkeypatch):
    monkeypatch.setenv("MAML_FAST_BACKEND", "cuda")
    backend = findings()["backend"]
    assert backend.is_problem
    assert "MAML_FAST_BACKEND='cuda' is unknown" in backend.text


def test_missing_home_is_a_problem(monkeypatch):
    def no_home() -> None:
        raise _build.BuildError("there is no home folder")

    monkeypatch.setenv("MAML_FAST_BACKEND", "reference")
    monkeypatch.setattr(_build, "cache_folder", no_home)
    assert findings()["cache"] == doctor.Finding("cache", "there is no home folder", is_problem=True)

"""The operators for GPUs, glue and kernels as they are, with the host playing the GPU, so that CI runs them."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from build_folder import BuildFolder
from checkout import ROOT
from torch.utils import cpp_extension

from maml_fast import native
from maml_fast.native._toolchain import find_ninja

SOURCES = [
    *sorted(ROOT.glob("csrc/cuda/**/*.cu")),
    *sorted(ROOT.glob("csrc/bindings/*_cuda.cpp")),
    ROOT / "tests/csrc/cuda/host_gpu.cpp",
]
OPERATORS = (
    "conv_block_forward",
    "conv_block_backward",
    "conv_block_double_backward",
    "class_losses",
    "second_of_class_losses",
    "draw_episodes",
)
DECISIONS = (
    "inner_loop._walk._saves_launches",
    "inner_loop._cross_entropy._has_kernels",
    "ops._conv_block._adds_gradients",
)


@pytest.fixture(scope="session")
def gpu_library(build_folder: BuildFolder) -> Callable[[], int]:
    """Compile csrc/cuda and its bindings for the host; they register as torch's kernels for CUDA.

    Return a function that tells how many kernels were launched so far.
    """
    assert native.library() is not None  # declares the operators
    with build_folder("gpu_on_host") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(find_ninja()).parent), prepend=os.pathsep)
        cpp_extension.load(
            "gpu_on_host",
            [str(_stand_in(source, folder)) for source in SOURCES],
            extra_cflags=["-O1", "-DMF_HOST_GPU", "-fvisibility=hidden"],
            extra_include_paths=[str(ROOT / place) for place in ("tests/csrc/cuda/shim", "csrc", "tests/csrc/cuda")],
            build_directory=str(folder),
            with_cuda=False,
            is_python_module=False,
        )
        launches = ctypes.CDLL(str(folder / "gpu_on_host.so")).host_gpu_launches
    launches.restype = ctypes.c_int64
    return launches


def _stand_in(source: Path, folder: Path) -> Path:
    """Return a file that includes the source, for torch would give a .cu file to nvcc; it is written once."""
    file = folder / f"{source.parent.name}-{source.stem}.cpp"
    text = f'#include "{source}"\n'
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    return file


@pytest.fixture
def gpu_on_host(gpu_library: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send the operators of tensors on the CPU to the kernels for GPUs."""
    library = torch.library.Library("maml_fast", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other kernels are overridden
        for name in OPERATORS:
            library.impl(name, _on_gpu(getattr(torch.ops.maml_fast, name).default), "CPU", allow_override=True)
    for decision in DECISIONS:  # that depend on the device
        monkeypatch.setattr(f"maml_fast.{decision}", lambda _: True)
    yield
    library._destroy()


def _on_gpu(operator: torch._ops.OpOverload):
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    return lambda *arguments: operator.redispatch(keys, *arguments)


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.cuda)])
def gpu_device(request: pytest.FixtureRequest) -> torch.device:
    """Where tensors must be for the kernels under test to run."""
    if request.param == "cuda":
        assert native.has_cuda_kernels(), native.backend()
        return torch.device("cuda")
    request.getfixturevalue("gpu_on_host")
    return torch.device("cpu")

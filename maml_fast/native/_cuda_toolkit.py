"""Finds what GPU kernels need to be compiled: nvcc, a torch that can run them, and the architectures of the GPUs."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["CudaToolkit", "find_cuda_toolkit", "find_home"]

MIN_CAPABILITY = (7, 5)  # compute capability that the kernels need: they read shared memory by ldmatrix
_NUMBER = re.compile(r"\d+\.\d+")  # in an architecture, such as 9.0 in 9.0a+PTX; some architectures are names


@dataclass(frozen=True)
class CudaToolkit:
    """CUDA's compiler, and the architectures to compile for."""

    nvcc: str
    version: str  # such as 13.0
    architectures: str  # in the format of TORCH_CUDA_ARCH_LIST, such as 8.0;9.0

    @property
    def home(self) -> str:
        """The toolkit's folder, as in CUDA_HOME."""
        return find_home(self.nvcc)

    def __str__(self) -> str:
        return f"nvcc {self.version} for {self.architectures}"


def find_cuda_toolkit() -> CudaToolkit | str:
    """Return the toolkit to compile GPU kernels with, or a text that says why there is none and how to change that."""
    if os.environ.get("MAML_FAST_CUDA") == "0":
        return "MAML_FAST_CUDA=0 leaves them out"
    if torch.version.cuda is None:
        return "this torch is for the CPU only"
    wanted = _architectures_wanted()
    architectures = [each for each in wanted if not _is_too_old(each)]
    if not wanted:
        return "there is no CUDA device here; to compile for others, name them in TORCH_CUDA_ARCH_LIST"
    if not architectures:
        least = ".".join(map(str, MIN_CAPABILITY))
        return f"the kernels need a GPU of compute capability {least} or later, not {', '.join(wanted)}"
    nvcc = _find_nvcc()
    if nvcc is None:
        return f"nvcc is missing: install the CUDA toolkit {torch.version.cuda}, or set CUDA_HOME to its folder"
    version = _version(nvcc)
    if version.partition(".")[0] != torch.version.cuda.partition(".")[0]:
        return f"{nvcc} is of CUDA {version}, but torch is for {torch.version.cuda}; set CUDA_HOME to a fitting toolkit"
    return CudaToolkit(nvcc, version, ";".join(architectures))


def _architectures_wanted() -> list[str]:
    """Return the architectures in TORCH_CUDA_ARCH_LIST, and those of GPUs here that a container's list may lack."""
    named = re.findall(r"[^;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
    covered = {number[0] for each in named if (number := _NUMBER.match(each))}
    return named + [each for each in _architectures_here() if each not in covered]


def _is_too_old(architecture: str) -> bool:
    number = _NUMBER.match(architecture)
    return number is not None and tuple(map(int, number[0].split("."))) < MIN_CAPABILITY


@functools.cache
def _architectures_here() -> list[str]:
    """Return the architectures of the GPUs that this process may use; a subprocess asks, so that this one can fork."""
    script = Path(__file__).with_name("_ask_gpus.py")
    result = subprocess.run([sys.executable, "-I", "-S", str(script)], capture_output=True, text=True, errors="replace")
    return sorted(set(result.stdout.split()), key=lambda each: tuple(map(int, each.split("."))))


def _find_nvcc() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and (path := shutil.which("nvcc", path=str(Path(home) / "bin"))):
            return path
    return shutil.which("nvcc")


def find_home(nvcc: str) -> str:
    """Return the folder of bin/, include/ and lib64/, even if ``nvcc`` on PATH is a script that calls another nvcc."""
    here = re.search(r"_HERE_=(.*)/bin$", _ask(nvcc, "--dryrun", "-E", "-x", "cu", os.devnull), re.MULTILINE)
    return here[1] if here else str(Path(nvcc).resolve().parents[1])


def _version(nvcc: str) -> str:
    number = re.search(r"release (\d+\.\d+)", _ask(nvcc, "--version"))
    return number[1] if number else "?"


def _ask(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        return str(error)
    return result.stdout + result.stderr

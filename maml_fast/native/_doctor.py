"""Reports what this machine offers, which backend runs and why, and how to fix what is missing."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from maml_fast import native
from maml_fast.native import _build, _toolchain
from maml_fast.native._cuda_toolkit import find_cuda_toolkit

__all__ = ["Finding", "examine", "report"]

_EXTENSIONS = ("avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Finding:
    """One fact about this machine; if it is a problem, the text names the remedy."""

    subject: str
    text: str
    is_problem: bool = False


def report() -> str:
    """Return the findings as text, one per line, with problems marked by ``!``. Builds the kernels if necessary."""
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    lines = [f"{'!' if finding.is_problem else ' '} {finding.subject:<{width}}  {finding.text}" for finding in findings]
    n_problems = sum(finding.is_problem for finding in findings)
    lines.append(f"\nProblems: {n_problems}, marked with !" if n_problems else "\nNo problems found.")
    return "\n".join(lines)


def examine() -> list[Finding]:
    """Return all findings, prerequisites first. Builds the kernels if necessary; a problem is a finding, no error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the findings below report the same
        return [
            _find("maml_fast", _package),
            _find("python", lambda: f"{platform.python_version()}, {sys.executable}"),
            _find("torch", _torch),
            _find("compiler", lambda: f"{(compiler := _toolchain.find_compiler())}, {compiler.path}"),
            _find("headers", lambda: str(_toolchain.find_python_headers())),
            _find("ninja", _toolchain.find_ninja),
            _find("CUDA", _cuda),
            _backend(),
            _find("CPU", _cpu),
            _find("cache", _cache),
        ]


def _find(subject: str, describe: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, describe())
    except (RuntimeError, OSError) as error:
        return Finding(subject, str(error), is_problem=True)


def _package() -> str:
    try:
        version = metadata.version("maml_fast")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return f"{version}, {Path(__file__).parent.parent}"


def _torch() -> str:
    target = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
    return f"{torch.__version__}, for {target}, {torch.get_num_threads()} threads"


def _cuda() -> str:
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ", ".join(torch.cuda.get_device_name(i) for i in range(n_devices)) or "no device"
    toolkit = find_cuda_toolkit()
    if n_devices and isinstance(toolkit, str) and os.environ.get("MAML_FAST_CUDA") != "0":
        raise RuntimeError(f"{devices}, but no kernels for it: {toolkit}")
    return f"{devices}, {f'no kernels for GPUs: {toolkit}' if isinstance(toolkit, str) else toolkit}"


def _backend() -> Finding:
    try:
        backend = native.backend()
    except (RuntimeError, ValueError) as error:
        return Finding("backend", str(error), is_problem=True)
    wanted = backend.name == "native" or os.environ.get("MAML_FAST_BACKEND") == "reference"
    return Finding("backend", str(backend), is_problem=not wanted)


def _cpu() -> str:
    """Return the CPU's model, its cores, and its vector extensions, which decide which kernels run."""
    cores = f"{_toolchain.usable_cores()} of {os.cpu_count()} cores"
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:  # not Linux
        lines = []
    entries = {key.strip(): value.strip() for key, _, value in lines}
    return ", ".join([entries.get("model name", platform.machine()), cores, _extensions(entries.get("flags", ""))])


def _extensions(flags: str) -> str:
    if "neon" in _toolchain.instruction_sets():
        return "NEON"
    return " ".join(name for name in _EXTENSIONS if name in flags.split()) or "no AVX"


def _cache() -> str:
    folder = _build.cache_folder()
    libraries = [path.stat().st_size for path in folder.rglob("*.so")]
    return f"{folder}, {len(libraries)} libraries, {sum(libraries) / 2**20:.1f} MiB"

"""Finds what compiling needs on this machine: a C++ compiler, Python's headers, ninja, cores."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = [
    "BuildError",
    "Compiler",
    "find_compiler",
    "find_ninja",
    "find_python_headers",
    "instruction_set",
    "instruction_sets",
    "job_count",
    "runtime_of_torch",
    "usable_cores",
]


_X86, _ARM = ("avx512", "avx2", "generic"), ("neon",)
_INSTRUCTION_SETS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}  # on macOS, aarch64 is called arm64


class BuildError(RuntimeError):
    """The library can't be built; the message says why and how to fix it, in one line without a final period."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that runs."""

    path: str
    version: str  # first line of --version

    def __str__(self) -> str:
        """Return family and version, such as ``g++ 12.2.0``."""
        number = re.search(r"\d+(\.\d+)+", re.sub(r"\(.*?\)", "", self.version))  # without the packager's (...)
        return f"{'clang++' if 'clang' in self.version else 'g++'} {number[0] if number else '?'}"


def find_compiler() -> Compiler:
    """Return the compiler in ``CXX``, else the first of c++, g++ and clang++; raise BuildError if there is none."""
    asked = os.environ.get("CXX")
    for command in [asked] if asked else ["c++", "g++", "clang++"]:
        if path := shutil.which(command):
            return Compiler(path, _version(path))
    if asked:
        raise BuildError(f"CXX={asked!r} names no program; set it to one C++ compiler, without arguments, or unset it")
    raise BuildError("no C++ compiler found (c++, g++, clang++): install g++, or name one in CXX")


def _version(path: str) -> str:
    try:
        result = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}
        )
    except OSError as error:
        raise BuildError(f"the C++ compiler {path} does not run: {error}") from error
    if result.returncode != 0 or not result.stdout.strip():
        raise BuildError(f"the C++ compiler {path} does not answer --version: {result.stderr.strip() or 'no output'}")
    return result.stdout.strip().splitlines()[0]


def runtime_of_torch(compiler: Compiler) -> list[str]:
    """Return the C++ runtime that torch has loaded, to link with if the compiler itself has only a static one.

    With two runtimes in a process, neither can catch the other's exceptions: an operator's error would end the process.
    """
    result = subprocess.run([compiler.path, "-print-file-name=libstdc++.so"], capture_output=True, text=True)
    if os.path.isabs(result.stdout.strip()):
        return []
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:  # not Linux
        return []
    return re.findall(r"\S*/libstdc\+\+\.so\S*", maps)[:1]


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that the kernels know for this kind of processor, best first.

    All processors of the kind have the last one.
    """
    return _INSTRUCTION_SETS.get(platform.machine().lower(), ("generic",))


def instruction_set() -> str:
    """Return the instruction set to compile kernels for, in addition to the last of :func:`instruction_sets`.

    It is the best one of this machine, or the lower one that ``MAML_FAST_CPU`` requests. Others would not run here, and
    would take as long to compile.
    """
    known, here = instruction_sets(), torch.backends.cpu.get_cpu_capability().lower()
    best = here if here in known else known[-1]
    return "avx2" if best == "avx512" and os.environ.get("MAML_FAST_CPU") == "avx2" else best


def find_python_headers() -> Path:
    """Return the folder of Python.h; raise BuildError if Python comes without it, as a system's Python often does."""
    folder = Path(sysconfig.get_path("include"))
    if not (folder / "Python.h").is_file():
        raise BuildError(f"Python's own headers are missing from {folder}: install python3-dev or its equivalent")
    return folder


def find_ninja() -> str:
    """Return the path of ninja: on PATH, or in its pip package (not on PATH if the environment is not activated)."""
    if path := shutil.which("ninja"):
        return path
    try:
        import ninja
    except ImportError:
        raise BuildError("ninja is missing: pip install ninja") from None
    path = shutil.which("ninja", path=ninja.BIN_DIR)
    if path is None:
        raise BuildError(f"ninja is missing from {ninja.BIN_DIR}: pip install --force-reinstall ninja")
    return path


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def job_count(n_sources: int) -> int:
    """Return how many files to compile at once: ``MAX_JOBS``, else one per usable core."""
    asked = os.environ.get("MAX_JOBS")
    if not asked:
        return max(1, min(usable_cores(), n_sources))
    if not asked.isdecimal() or int(asked) == 0:  # for ninja, 0 means no limit
        raise BuildError(f"MAX_JOBS={asked!r} is not a positive whole number")
    return int(asked)

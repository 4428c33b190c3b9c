"""The C++ unit tests beside this file, built by CMake and run by CTest; .ci/run has them run under sanitizers too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from build_folder import BuildFolder
from checkout import ROOT

from maml_fast.native import _toolchain

pytestmark = pytest.mark.backendless


def tool(name: str) -> str:
    """Return cmake or ctest: on PATH, or as pip installed it, which an environment not activated has off PATH."""
    if path := shutil.which(name):
        return path
    import cmake

    return str(Path(cmake.CMAKE_BIN_DIR) / name)


def run(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_cpp(build_folder: BuildFolder) -> None:
    """All but the kernels for GPUs, which test_planted_bugs.py runs, with and without bugs.

        Without optimization, which takes longer than all of the tests;
    Python's tests run the kernels as they are shipped.
    """
    jobs = str(_toolchain.job_count(n_sources=64))
    options = [
        f"-DCMAKE_MAKE_PROGRAM={_toolchain.find_ninja()}",
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DCMAKE_CXX_FLAGS_DEBUG=-O0",
    ]
    options += ["-DMAML_FAST_GPU_ON_HOST=OFF", "-DCMAKE_DISABLE_FIND_PACKAGE_Python3=ON"]
    with build_folder("cpp") as folder:
        run(tool("cmake"), "--fresh", "-G", "Ninja", "-S", ROOT, "-B", folder, *options)
        run(tool("cmake"), "--build", folder, "--parallel", jobs)
        run(tool("ctest"), "--test-dir", folder, "--output-on-failure", "--no-tests=error", "--parallel", jobs)

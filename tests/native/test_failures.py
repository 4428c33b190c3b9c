"""What cannot be built is told with its reason and remedy."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import pytest
import torch
from tiny_library import NO_COMPILER

from maml_fast import native
from maml_fast.native import _build, _toolchain
from maml_fast.native._cuda_toolkit import CudaToolkit

pytestmark = [pytest.mark.usefixtures("forked_compile"), pytest.mark.backendless]

LOADED = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libstdc++.so" in line)


def test_without_a_compiler_one_warning_names_reason_and_remedy(fresh, no_compiler, monkeypatch):
    tries = []
    ensure = _build.ensure
    monkeypatch.setattr(_build, "ensure", lambda *arguments: tries.append(1) or ensure(*arguments))
    with pytest.warns(RuntimeWarning, match=NO_COMPILER + r".*install g\+\+.*maml-fast doctor") as caught:
        assert native.library() is None
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.library() is None
        assert native.backend().name == "reference"
        assert "no C++ compiler found" in str(native.backend())
    assert len(tries) == 1  # a failure is remembered, not repeated for every op


def test_demand_by_environment_is_an_error_where_it_cannot_be_met(fresh, no_compiler, monkeypatch):
    monkeypatch.setenv("MAML_FAST_BACKEND", "native")
    for call in (native.library, native.backend):
        with pytest.raises(RuntimeError, match=NO_COMPILER + ".*maml-fast doctor"):
            call()
    with native.use_backend("reference"):
        assert native.library() is None


def test_demand_by_use_backend_is_an_error_where_it_cannot_be_met(fresh, no_compiler):
    with pytest.raises(RuntimeError, match=NO_COMPILER), native.use_backend("native"):
        pytest.fail("the block ran")
    with native.use_backend("reference"):
        assert native.library() is None


def test_compile_error_is_named_and_its_log_kept(fresh, csrc):
    (csrc / "cpu" / "answer.h").write_text("constexpr int kAnswer = forty_two;\n")
    with pytest.raises(RuntimeError, match=r"answer.h:1.* error: .*forty_two") as caught:
        native.build()
    log = re.search(r"whole log: (.*)\)$", str(caught.value))
    assert log is not None
    assert "forty_two" in Path(log[1]).read_text()
    assert list(fresh.glob("partial-*")) == []


@pytest.fixture
def broken_toolkit(csrc, monkeypatch, tmp_path) -> None:
    """A toolkit that compiles nothing, and a kernel for it."""
    (csrc / "cuda").mkdir()
    (csrc / "cuda" / "kernel.cu").touch()
    toolkit = CudaToolkit(str(tmp_path / "cuda" / "bin" / "nvcc"), "13.0", "9.0")
    monkeypatch.setattr(_build, "find_cuda_toolkit", lambda: toolkit)


def test_what_nvcc_cannot_compile_does_not_cost_the_cpu_its_kernels(fresh, broken_toolkit, capfd):
    report = native.build()
    assert "compiling failed" in str(report.no_gpu)
    assert "there are no kernels for GPUs: compiling failed" in capfd.readouterr().err
    module = native.library()
    assert module is not None
    assert module.answer() == 42
    assert str(native.backend()).startswith(
        f"native (tiny kernels for torch {torch.__version__}, none for GPUs: compil"
    )
    for force, said in (
        (False, ""),
        (True, "failed after"),
    ):  # nobody waits for the same failure twice, unless asked to
        assert native.build(force=force).no_gpu == report.no_gpu
        told = capfd.readouterr().err
        assert said in told
        assert bool(told) == force


def test_what_no_compiler_takes_is_an_error_with_a_gpu_too(fresh, broken_toolkit, csrc):
    (csrc / "cpu" / "answer.h").write_text("constexpr int kAnswer = forty_two;\n")
    with pytest.raises(RuntimeError, match="forty_two"):
        native.build()


def test_a_compiler_with_a_static_runtime_alone_gets_that_of_torch(tmp_path):
    """Of two C++ runtimes in a process neither can catch what the other throws."""
    for answer, expected in (("/usr/lib/libstdc++.so", []), ("libstdc++.so", [LOADED])):
        compiler = tmp_path / "compiler"
        compiler.write_text(f"#!/bin/sh\necho {answer}\n")
        compiler.chmod(0o755)
        assert _toolchain.runtime_of_torch(_toolchain.Compiler(str(compiler), "g++ 13.3.0")) == expected


def test_build_after_a_failure_takes_effect(fresh, built, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler")
        with pytest.warns(RuntimeWarning, match="CXX='no-such-compiler' names no program"):
            assert native.library() is None
    monkeypatch.setenv("MAML_FAST_CACHE", str(built[1]))
    assert native.build().cached
    module = native.library()
    assert module is not None
    assert module.answer() == 42
    assert str(native.backend()) == f"native (tiny kernels for torch {torch.__version__})"


def test_unusable_cache_folder_is_named(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RuntimeError, match=r"cache folder .*/file/cache can't be used.*set MAML_FAST_CACHE to another"):
        native.build()


def test_home_is_not_guessed(monkeypatch):
    import platformdirs

    monkeypatch.delenv("MAML_FAST_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: Path("~/.cache") / name)  # for an unknown user
    with pytest.raises(_build.BuildError, match=r"no home folder.*set MAML_FAST_CACHE"):
        _build.cache_folder()


def broken_program(folder: Path) -> str:
    program = folder / "broken"
    program.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CXX", lambda _: "ccache g++", r"CXX='ccache g\+\+' names no program.*without arguments"),
        ("CXX", broken_program, "compiler .*/broken does not answer --version: out of order"),
        ("MAX_JOBS", lambda _: "0", "MAX_JOBS='0' is not a positive whole number"),
        ("MAX_JOBS", lambda _: "many", "MAX_JOBS='many' is not a positive whole number"),
    ],
)
def test_bad_settings_are_named(csrc, cache, tmp_path, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value(tmp_path))
    with pytest.raises(_build.BuildError, match=message):
        _build.ensure(csrc, cache)
    assert not cache.exists()


def test_missing_python_headers_are_named(csrc, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(_toolchain.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(_build.BuildError, match=r"headers are missing from .*: install python3-dev"):
        _build.ensure(csrc, cache)


def test_job_count(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert [_toolchain.job_count(n) for n in (1, cores, 10 * cores)] == [1, cores, cores]
    monkeypatch.setenv("MAX_JOBS", "3")
    assert _toolchain.job_count(1) == 3


def test_ninja_is_found_in_an_environment_that_is_not_activated(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert os.access(_toolchain.find_ninja(), os.X_OK)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("c++ (Debian 12.2.0-14+deb12u1) 12.2.0", "g++ 12.2.0"),
        ("x86_64-conda-linux-gnu-c++ (conda-forge gcc 13.3.0-1) 13.3.0", "g++ 13.3.0"),
        ("g++ (GCC) 11.4.1 20231218 (Red Hat 11.4.1-3)", "g++ 11.4.1"),
        ("Debian clang version 14.0.6", "clang++ 14.0.6"),
        ("Apple clang version 15.0.0 (clang-1500.1.0.2.5)", "clang++ 15.0.0"),
    ],
)
def test_compiler_names(line, name):
    assert str(_toolchain.Compiler("c++", line)) == name

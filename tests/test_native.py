"""The build of the native library and the choice of backend, on a library of two tiny files that compile at once."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from maml_fast import native
from maml_fast.native import _build, _toolchain

MODULE = """
#include <Python.h>
int Answer();
static PyObject* PyAnswer(PyObject*, PyObject*) { return PyLong_FromLong(Answer()); }
static PyObject* Capability(PyObject*, PyObject*) { return PyUnicode_FromString("tiny"); }
static PyMethodDef methods[] = {{"answer", PyAnswer, METH_NOARGS, nullptr},
                                {"cpu_capability", Capability, METH_NOARGS, nullptr},
                                {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "maml_fast_native", nullptr, -1, methods};
PyMODINIT_FUNC PyInit_maml_fast_native() { return PyModule_Create(&module_def); }
"""
# Both sources are called module.cpp, and the folder has a space: neither may trouble the build.
FILES = {
    "bindings/module.cpp": MODULE,
    "cpu/module.cpp": '#include "answer.h"\nint Answer() { return kAnswer; }\n',
    "cpu/answer.h": "constexpr int kAnswer = 42;\n",
}
NO_COMPILER = r"no C\+\+ compiler found"


def write_csrc(folder: Path) -> Path:
    for name, text in FILES.items():
        path = folder / "c src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "c src"


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    return write_csrc(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """Sources, and a cache that holds their library."""
    folder = tmp_path_factory.mktemp("built")
    csrc = write_csrc(folder)
    _build.ensure(csrc, folder / "cache")
    return csrc, folder / "cache"


@pytest.fixture
def fresh(fresh_backend, monkeypatch, csrc) -> Path:
    """A new process with the tiny sources; its cache folder."""
    monkeypatch.setattr(_build, "find_csrc", lambda: csrc)
    return fresh_backend


@pytest.fixture
def no_compiler(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def python(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


BUILDER = """
import sys
from pathlib import Path
from maml_fast.native import _build
print("cached" if _build.ensure(Path(sys.argv[1]), Path(sys.argv[2])).cached else "built")
"""


@pytest.fixture
def scripted_compiler(tmp_path: Path) -> Path:
    """A compiler that notes each file it compiles, and takes for ever while a file ``slow`` lies beside it."""
    script = tmp_path / "scripted-g++"
    script.write_text(
        f"""#!/bin/sh
        case " $* " in *" -c "*)
            echo "$*" >> '{tmp_path}/calls'
            if [ -e '{tmp_path}/slow' ]; then exec sleep 600; fi;;
        esac
        exec {_toolchain.find_compiler().path} "$@"
        """
    )
    script.chmod(0o755)
    return script


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def answer(library: Path) -> int:
    spec = importlib.util.spec_from_file_location(_build.NAME, library)
    assert spec is not None
    return importlib.util.module_from_spec(spec).answer()


# ---- the build


def test_import_neither_builds_nor_loads_the_build_machinery(tmp_path):
    script = "import sys, maml_fast; print([name for name in sys.modules if 'cpp_extension' in name])"
    told, said = python(script, MAML_FAST_CACHE=str(tmp_path / "cache")).communicate()
    assert (told, said) == ("[]\n", "")
    assert not (tmp_path / "cache").exists()


def test_builds_once_says_so_in_one_line_and_is_silent_when_cached(csrc, cache, capfd):
    first = _build.ensure(csrc, cache)
    line = r"maml_fast: building native kernels for torch \S+ with \S+ [\d.]+ \.\.\. done in [\d.]+ s\n"
    assert re.fullmatch(line, capfd.readouterr().err)
    assert not first.cached
    assert first.seconds > 0
    assert answer(first.path) == 42

    again = _build.ensure(csrc, cache)
    assert again == _build.BuildReport(first.path, 0.0, cached=True)
    assert capfd.readouterr() == ("", "")
    assert list(cache.glob("partial-*")) == []


@pytest.mark.parametrize("name", [*FILES, "cpu/new.h"])
def test_every_source_and_header_decides(csrc, name):
    before = _build._digest(csrc)
    with open(csrc / name, "a") as file:
        file.write("\n")
    assert _build._digest(csrc) != before


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (_build, "FLAGS", ("-O1",)),
        (_build, "LINK_FLAGS", ()),
        (torch.version, "git_version", "another"),
        (_build.platform, "machine", lambda: "another"),
        (_build.sysconfig, "get_config_var", lambda name: "another"),
        (os, "confstr", lambda name: "another"),
    ],
)
def test_target_and_flags_decide(monkeypatch, csrc, owner, name, value):
    before = _build._digest(csrc)
    monkeypatch.setattr(owner, name, value)
    assert _build._digest(csrc) != before


def test_compiler_path_and_version_decide():
    names = {
        _build._slug(_toolchain.Compiler(path, version))
        for path in ("/opt/a/g++", "/opt/b/g++")
        for version in ("g++ (GCC) 12.2.0", "g++ (GCC) 12.3.0")
    }
    assert len(names) == 4


@pytest.mark.parametrize("victim", ["builder", "everybody"])
def test_killed_build_neither_hangs_nor_poisons_the_next(csrc, cache, scripted_compiler, tmp_path, monkeypatch, victim):
    slow = tmp_path / "slow"
    slow.touch()
    builder = python(BUILDER, csrc, cache, CXX=str(scripted_compiler))
    try:
        wait_for(tmp_path / "calls", builder)
        (os.kill if victim == "builder" else os.killpg)(builder.pid, signal.SIGKILL)
        builder.wait()
        assert len(list(cache.glob("partial-*"))) == 1

        slow.unlink()
        monkeypatch.setenv("CXX", str(scripted_compiler))  # if only the builder died, its compilers are still at work
        report = _build.ensure(csrc, cache)
        assert not report.cached
        assert answer(report.path) == 42
        assert list(cache.glob("partial-*")) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(builder.pid, signal.SIGKILL)
        builder.communicate()


def test_two_processes_that_start_together_build_once(csrc, cache, scripted_compiler, tmp_path):
    builders = [python(BUILDER, csrc, cache, CXX=str(scripted_compiler)) for _ in range(2)]
    outputs = [builder.communicate() for builder in builders]
    assert sorted(told for told, _ in outputs) == ["built\n", "cached\n"], outputs
    assert len((tmp_path / "calls").read_text().splitlines()) == 2  # each source once
    assert sum("building native kernels" in said for _, said in outputs) == 1


def test_damaged_library_is_built_again(fresh, csrc, built):
    shutil.copytree(built[1], fresh)
    (library,) = fresh.rglob("*.so")
    size = library.stat().st_size

    library.write_bytes(b"\0" * (size - 1))  # cut short: seen by its size
    report = _build.ensure(csrc, fresh)
    assert not report.cached
    assert answer(report.path) == 42

    library.unlink()  # this process has mapped it
    library.write_bytes(b"\0" * size)  # of the right size, but no library: seen when it does not load
    module = native.library()
    assert module is not None
    assert module.answer() == 42


def test_library_outlives_its_compiler(built, no_compiler):
    assert _build.ensure(*built).cached
    with pytest.raises(_build.BuildError, match=NO_COMPILER):
        _build.ensure(*built, fresh=True)


# ---- failures


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


# ---- the choice


def test_reference_by_environment_builds_nothing(fresh, monkeypatch):
    monkeypatch.setenv("MAML_FAST_BACKEND", "reference")
    assert native.library() is None
    assert str(native.backend()) == "reference (asked for by MAML_FAST_BACKEND)"
    assert not fresh.exists()


def test_unknown_environment_value_names_the_allowed_ones(fresh, monkeypatch):
    monkeypatch.setenv("MAML_FAST_BACKEND", "cuda")
    message = "MAML_FAST_BACKEND='cuda' is unknown: use 'auto', 'native' or 'reference'"
    for call in (native.library, native.backend):
        with pytest.raises(ValueError, match=message):
            call()


def test_unknown_instruction_set_names_the_allowed_ones(fresh, monkeypatch):
    monkeypatch.setenv("MAML_FAST_CPU", "avx1024")
    with pytest.raises(ValueError, match="MAML_FAST_CPU='avx1024' is unknown: use 'avx512', 'avx2' or 'generic'"):
        native.backend()


def test_unknown_backend_name_names_the_allowed_ones():
    message = "backend 'cuda' is unknown: use 'native' or 'reference'"
    with pytest.raises(ValueError, match=message), native.use_backend("cuda"):
        pytest.fail("the block ran")


def test_use_backend_nests(fresh, built, monkeypatch):
    monkeypatch.setenv("MAML_FAST_CACHE", str(built[1]))
    monkeypatch.setenv("MAML_FAST_BACKEND", "reference")
    with native.use_backend("native"):
        assert native.backend().name == "native"
        with native.use_backend("reference"):
            assert str(native.backend()) == "reference (asked for by use_backend)"
            assert native.library() is None
        assert native.library() is not None
    assert native.library() is None


def test_use_backend_ends_with_an_error_in_its_block(fresh, monkeypatch):
    monkeypatch.setenv("MAML_FAST_BACKEND", "reference")
    with pytest.raises(ZeroDivisionError), native.use_backend("reference"):
        raise ZeroDivisionError
    assert str(native.backend()) == "reference (asked for by MAML_FAST_BACKEND)"


def test_use_backend_leaves_other_threads_alone(fresh, built, monkeypatch):
    monkeypatch.setenv("MAML_FAST_CACHE", str(built[1]))
    seen = []
    with native.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(native.backend().name))
        thread.start()
        thread.join()
        assert native.backend().name == "reference"
    assert seen == ["native"]


def test_threads_that_start_together_load_one_library(fresh, built, monkeypatch):
    monkeypatch.setenv("MAML_FAST_CACHE", str(built[1]))
    loads = []
    load = native._import
    monkeypatch.setattr(native, "_import", lambda path: loads.append(path) or load(path))
    start = threading.Barrier(8)
    seen = []

    def use() -> None:
        start.wait()
        seen.append(native.library())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert all(module is not None for module in seen)
    assert len(loads) == 1


def test_callbacks_are_called_once_whether_they_come_before_or_after_the_library(fresh, built, monkeypatch):
    monkeypatch.setenv("MAML_FAST_CACHE", str(built[1]))
    called = []
    native.when_loaded(lambda: called.append("before"))
    assert called == []
    native.library()
    native.when_loaded(lambda: called.append("after"))
    native.library()
    assert called == ["before", "after"]


def test_compiled_code_follows_the_choice(fresh, built, monkeypatch):
    monkeypatch.setenv("MAML_FAST_CACHE", str(built[1]))

    @torch.compile(backend="eager")
    def choose(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if native.library() is None else x + 2

    zero = torch.zeros(())
    assert choose(zero) == 2
    with native.use_backend("reference"):
        assert choose(zero) == 1
    assert choose(zero) == 2

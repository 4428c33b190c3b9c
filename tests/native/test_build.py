"""The build of the native library: once, for every change, and never poisoned."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch
from forks import fork
from tiny_library import FILES, NO_COMPILER, answer

from maml_fast import native
from maml_fast.native import _build, _toolchain

pytestmark = [pytest.mark.usefixtures("forked_compile"), pytest.mark.backendless]


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


def start_builder(csrc: Path, cache: Path, compiler: Path, told: Path) -> ForkProcess:
    def build() -> None:
        os.setsid()
        print("cached" if _build.ensure(csrc, cache).cached else "built")

    return fork(build, told, {"CXX": str(compiler)})


def wait_for(path: Path, process: ForkProcess, told: Path) -> None:
    while not path.exists():
        assert process.is_alive(), told.read_text()
        time.sleep(0.02)


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
    before = _build._digest(csrc, None)
    with open(csrc / name, "a") as file:
        file.write("\n")
    assert _build._digest(csrc, None) != before


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
    before = _build._digest(csrc, None)
    monkeypatch.setattr(owner, name, value)
    assert _build._digest(csrc, None) != before


def test_compiler_path_and_version_decide():
    names = {
        _build._slug(_toolchain.Compiler(path, version))
        for path in ("/opt/a/g++", "/opt/b/g++")
        for version in ("g++ (GCC) 12.2.0", "g++ (GCC) 12.3.0")
    }
    assert len(names) == 4


@pytest.mark.parametrize("victim", ["builder", "everybody"])
def test_killed_build_neither_hangs_nor_poisons_the_next(csrc, cache, scripted_compiler, tmp_path, monkeypatch, victim):
    slow, told = tmp_path / "slow", tmp_path / "told"
    slow.touch()
    builder = start_builder(csrc, cache, scripted_compiler, told)
    try:
        wait_for(tmp_path / "calls", builder, told)
        (os.kill if victim == "builder" else os.killpg)(builder.pid, signal.SIGKILL)
        builder.join()
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
        builder.join()


def test_two_processes_that_start_together_build_once(csrc, cache, scripted_compiler, tmp_path):
    told = [tmp_path / name for name in ("first", "second")]
    for builder in [start_builder(csrc, cache, scripted_compiler, file) for file in told]:
        builder.join()
    outputs = [file.read_text() for file in told]
    assert sorted(output.splitlines()[-1] for output in outputs) == ["built", "cached"], outputs
    assert len((tmp_path / "calls").read_text().splitlines()) == 2  # each source once
    assert sum("building native kernels" in output for output in outputs) == 1


def cut_short(library: Path) -> None:
    library.write_bytes(library.read_bytes()[:-1])


def flip_a_bit(library: Path) -> None:
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)


def give_away(library: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(library, 12345, -1)


TAMPERED = {
    "cut short": cut_short,
    "a bit": flip_a_bit,
    "everybody may write to it": lambda library: library.chmod(0o777),
    "everybody may write to its folder": lambda library: library.parent.chmod(0o777),
    "somebody else's": give_away,
    "no digest": lambda library: (library.parent / "complete").unlink(),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_library_that_may_be_another_is_never_loaded(what, csrc, built, cache):
    shutil.copytree(built[1], cache)
    (library,) = cache.rglob("*.so")
    copy = library.read_bytes()
    library.unlink()  # this process may have mapped it
    library.write_bytes(copy)
    assert _build.ensure(csrc, cache).cached
    TAMPERED[what](library)
    report = _build.ensure(csrc, cache)
    assert not report.cached
    assert answer(report.path) == 42
    assert _build.ensure(csrc, cache).cached


def test_a_library_that_does_not_load_is_built_again(fresh, csrc, built):
    """Because the system has changed under it, say."""
    shutil.copytree(built[1], fresh)
    (library,) = fresh.rglob("*.so")
    library.unlink()
    library.write_bytes(bytes(10_000))
    (library.parent / "complete").write_text(hashlib.sha256(bytes(10_000)).hexdigest())
    module = native.library()
    assert module is not None
    assert module.answer() == 42


def test_library_outlives_its_compiler(built, no_compiler):
    assert _build.ensure(*built).cached
    with pytest.raises(_build.BuildError, match=NO_COMPILER):
        _build.ensure(*built, fresh=True)

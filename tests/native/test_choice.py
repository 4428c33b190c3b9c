"""The choice of backend."""

from __future__ import annotations

import threading

import pytest
import torch

from maml_fast import native
from maml_fast.native import _toolchain

pytestmark = pytest.mark.backendless


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
    for machine, known in (("x86_64", "'avx512', 'avx2', 'generic'"), ("aarch64", "'neon'"), ("ppc64le", "'generic'")):
        monkeypatch.setattr(_toolchain.platform, "machine", lambda machine=machine: machine)
        message = f"MAML_FAST_CPU='avx1024' is not .* for {machine}: use one of {known}, or unset"
        with pytest.raises(ValueError, match=message):
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

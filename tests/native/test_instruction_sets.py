"""Which kernels a machine compiles. Other machines than this one are pretended: nothing is compiled for them."""

from __future__ import annotations

import pytest
import torch

from maml_fast.native import _build, _toolchain

pytestmark = pytest.mark.backendless


@pytest.mark.parametrize(
    ("machine", "capability_of_torch", "requested", "compiled"),
    [
        ("x86_64", "AVX512", "", {"avx512", "generic"}),
        ("x86_64", "AVX512", "avx2", {"avx2", "generic"}),
        ("x86_64", "AVX2", "", {"avx2", "generic"}),
        ("x86_64", "DEFAULT", "", {"generic"}),
        ("aarch64", "DEFAULT", "", {"neon"}),
        ("aarch64", "SVE256", "", {"neon"}),
        ("arm64", "DEFAULT", "neon", {"neon"}),  # macOS
        ("ppc64le", "VSX", "", {"generic"}),
    ],
)
def test_a_machine_compiles_its_own_kernels(monkeypatch, machine, capability_of_torch, requested, compiled):
    monkeypatch.setattr(_toolchain.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability_of_torch)
    monkeypatch.setenv("MAML_FAST_CPU", requested)
    kernels = _toolchain.instruction_set()
    order = _build._order(_build.find_csrc(), _toolchain.find_compiler(), kernels, None, verbose=False)
    names = [path.stem for path in order.sources]
    for part in ("kernels", "operations"):
        assert {name.partition("_")[2] for name in names if name.startswith(f"{part}_")} == compiled
    assert "dispatch" in names

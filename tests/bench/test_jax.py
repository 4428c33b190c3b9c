"""The benchmarks' JAX: what it needs, and that it computes the same; a quick run has its second order."""

from __future__ import annotations

from dataclasses import replace

import parity
import pytest
import workloads
from bench_subject import Judge, strided_net
from child import Child
from peers import jax
from peers.nets import ConvNet

pytestmark = pytest.mark.backendless

Q2 = workloads.named("Q2")


@pytest.mark.parametrize(
    ("installed", "device", "obstacle"),
    [
        (("jax",), "cuda", "jax has no backend for CUDA here: pip install 'jax[cuda13]'"),
        (("jax",), "cpu", None),
        (("jax", "jax_cuda12_plugin"), "cuda", None),
        (("jax", "jax_cuda13_plugin"), "cuda", None),
        (("jax_cuda13_plugin",), "cuda", "jax is not installed: pip install 'maml_fast[bench]'"),
    ],
)
def test_jax_needs_its_backend(installed, device, obstacle, monkeypatch):
    for module in ("peers.jax", "peers.learner"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: name if name in installed else None)
    assert jax.JaxMap.obstacle(replace(Q2, device=device)) == obstacle


def test_it_agrees_on_a_strided_net():
    """With a score on the way. Its own convolutions are offered on GPUs alone, and computed here on the CPU."""
    network = ConvNet((("conv", "norm", "pool", "relu"), ("conv", "relu", "norm")), stride=2, padding=2)
    workload = replace(Q2, name="strided", model=strided_net, network=network, scored=(0,))
    if (obstacle := jax.JaxMap.obstacle(workload)) is not None:
        assert "jax is not installed" in obstacle
        return
    with Child("JAX", Judge, environment=jax.JaxMap.quick_environment) as child:
        for peer, order in ((jax.JaxMap, 1), (jax.JaxVmapConv, 2)):
            assert child.call("errors", replace(workload, order=order), peer.name)["gradient"] < parity.TOLERANCE

"""All weights of a meta-batch in one tensor: what goes in comes out, aligned, and the numbers stay the same."""

from __future__ import annotations

import pytest
import torch
from small import conv_net, make_episodes
from torch import Tensor

from maml_fast import MAML, use_engine
from maml_fast.algorithms import MetaSGD
from maml_fast.inner_loop import _walk
from maml_fast.inner_loop._flat_weights import ALIGNMENT, FLAT, FlatWeights
from maml_fast.inner_loop._values import PerStep
from maml_fast.ops import over_tasks


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"bias": (5,), "filters": (8, 3, 3, 3), "linear": (5, 6), "scale": (), "vector": (12,)}
    made = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return {**made, "filters": made["filters"].permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)}  # kernel order


def test_what_is_packed_is_unpacked_and_aligned() -> None:
    layout = FlatWeights(weights())
    assert layout.names == ["filters", "vector", "bias", "linear", "scale"]
    packed = layout.pack_shared(weights(), 3)
    assert packed[FLAT].stride() == (0, 1)
    assert packed[FLAT].shape[1] % ALIGNMENT == 0
    own = {name: torch.stack([(t + 1) * weight for t in range(3)]) for name, weight in weights().items()}
    for fast, expected in (
        (packed, {name: over_tasks(w, 3) for name, w in weights().items()}),
        (layout.pack(own), own),
    ):
        unpacked = layout.unpack(fast)
        assert set(unpacked) == set(expected)
        for name, weight in unpacked.items():
            assert torch.equal(weight, expected[name])
        filters = unpacked["filters"].permute(0, 3, 4, 2, 1)  # as the kernels read them
        assert filters[0].is_contiguous()
        assert filters.storage_offset() % ALIGNMENT == filters.stride(0) % ALIGNMENT == 0


def test_a_gradient_is_one_tensor_and_splits_again() -> None:
    layout = FlatWeights(weights())
    flat = layout.pack_shared(weights(), 2)[FLAT].clone().requires_grad_()
    unpacked = layout.unpack({FLAT: flat})
    loss = sum((i + 1) * (weight**2).sum() for i, weight in enumerate(unpacked.values()))
    (gradient,) = torch.autograd.grad(loss, flat)
    of_names = layout.unpack({FLAT: gradient})
    for i, (name, weight) in enumerate(unpacked.items()):
        torch.testing.assert_close(of_names[name], 2 * (i + 1) * weight.detach())


def test_common_rates_stay_as_they_are() -> None:
    layout, rate = FlatWeights(weights()), torch.tensor(0.3)
    for each in (0.1, rate):
        assert layout.rule(dict.fromkeys(weights(), each), 2)[FLAT] is each
    steps = torch.tensor([0.1, 0.2])
    per_step = layout.rule({name: PerStep(steps) for name in weights()}, 2)[FLAT]
    assert isinstance(per_step, PerStep)
    assert per_step.values is steps


def test_other_rates_lie_as_the_weights_do() -> None:
    layout = FlatWeights(weights())
    rule = {"bias": 0.1, "filters": torch.rand(8, 1, 3, 1), "linear": torch.rand(6), "scale": torch.tensor(0.5)}
    flat = layout.rule({**rule, "vector": PerStep(torch.rand(3, 12))}, 3)[FLAT]
    assert isinstance(flat, PerStep)
    for step in range(3):
        rates = layout.unpack({FLAT: flat.at(step)[None]})
        assert torch.equal(rates["bias"][0], torch.full((5,), 0.1))
        for name in ("filters", "linear", "scale"):
            assert torch.equal(rates[name][0], rule[name].expand_as(weights()[name]))


MAKES = {
    "one rate": lambda **k: MAML(conv_net(), inner_lr=0.3, inner_steps=3, **k),
    "a learned rate": lambda **k: MAML(conv_net(), inner_lr=0.3, inner_steps=3, learn_inner_lr=True, **k),
    "learned rates of steps": lambda **k: MAML(conv_net(), inner_lr=0.3, inner_steps=3, learn_inner_lr="per_step", **k),
    "rates by name": lambda **k: MAML(conv_net(), inner_lr={"*": 0.3, "6": 0.1}, inner_steps=3, **k),
    "Meta-SGD": lambda **k: MetaSGD(conv_net(), inner_lr=0.1, inner_steps=2, **k),
    "Adam": lambda **k: MAML(conv_net(), inner_lr=1e-2, inner_steps=3, inner_optimizer="adam", **k),
    "order 1": lambda **k: MAML(conv_net(), inner_lr=0.3, inner_steps=3, order=1, **k),
    "from zeros": lambda **k: MAML(conv_net(), inner_lr=0.3, inner_steps=3, head="zero", **k),
    "from prototypes": lambda **k: MAML(conv_net(), inner_lr=0.3, inner_steps=3, head="proto", **k),
    "the head alone": lambda **k: MAML(conv_net(), inner_lr=0.3, inner_steps=3, adapted="head", **k),
    "a few steps' graphs": lambda **k: MAML(conv_net(), inner_lr=0.3, inner_steps=4, inner_memory=2, **k),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_numbers_are_those_of_separate_weights(make, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(_walk, "_saves_launches", lambda _: True)
    for flat in (True, False):
        if not flat:
            monkeypatch.setattr(_walk, "_flat_layout", lambda *_: None)
        maml = make()
        with use_engine("batched"):
            adapted = maml.adapt(*make_episodes()[:2])
            loss = maml(make_episodes()).loss
        gradients = torch.autograd.grad(loss, list(maml.parameters()), allow_unused=True)
        found.append([loss, *adapted.values(), *gradients])
    for actual, expected in zip(*found, strict=True):
        assert (actual is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)

"""Forwards that a record could tell wrongly: whatever MAML makes of them, it is the plain loop over tasks."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import assert_follows_loop
from small import make_episodes
from torch import Tensor, nn

from maml_fast import MAML

FACTOR = 1.5
CALLS = {"n": 0}


class Identity(torch.autograd.Function):
    """Its forward does nothing, its backward something else."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Odd(nn.Module):
    """Two layers, with something odd between them."""

    factor = 2.0

    def __init__(self, between: Callable[[Odd, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(7, 6), nn.Linear(6, 5), between
        self.settings = types.SimpleNamespace(scale=2.0, numbers=np.array([1.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(x)))


@functools.lru_cache
def positions(n: int) -> Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64)


def with_hook(model: Odd, h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda gradient: 2 * gradient)
    return h.tanh()


def with_a_count(model: Odd, h: Tensor) -> Tensor:
    CALLS["n"] += 1
    return h.tanh()


def without_gradients(model: Odd, h: Tensor) -> Tensor:
    with torch.no_grad():
        center = h.mean(0)
    return (h - center).tanh()


def by_a_mask(model: Odd, h: Tensor) -> Tensor:
    h = h.tanh()
    h = h.clone()
    h[h > 0] = h[h > 0] * 2
    return h


def by_its_own_gradient(model: Odd, h: Tensor) -> Tensor:
    at = h.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(at.tanh().sum(), at)
    return (h + gradient).tanh()


def cached(model: Odd, h: Tensor) -> Tensor:
    if not hasattr(model, "places"):
        model.places = torch.linspace(0, 1, 6, dtype=h.dtype)
    return (h + model.places).tanh()


def rewritten(model: Odd, h: Tensor) -> Tensor:
    model.second.weight.data = model.second.weight.data.clamp(-0.3, 0.3)
    return h.tanh()


ODD: dict[str, Callable[[Odd, Tensor], Tensor]] = {
    "a hook on a tensor": with_hook,
    "a count outside": with_a_count,
    "gradients off": without_gradients,
    "a mask": by_a_mask,
    "its own gradient": by_its_own_gradient,
    "a cache on the module": cached,
    "a cache outside": lambda model, h: (h + positions(6)).tanh(),
    "weights rewritten": rewritten,
    "control flow": lambda model, h: h.tanh() if h.mean() > 0 else h.relu(),
    "an identity with a backward": lambda model, h: Identity.apply(h).tanh(),
    "a reversed gradient": lambda model, h: Reversed.apply(h).tanh(),
    "straight through": lambda model, h: h + (h.round() - h).detach(),
    "one row after another": lambda model, h: torch.stack([row.tanh() * row.sum() for row in h]),
    "chosen columns": lambda model, h: h.tanh()[:, [3, 1, 0, 2, 5, 4]],
    "sorted": lambda model, h: h.sort(1).values.tanh(),
    "gathered": lambda model, h: h.gather(1, h.argsort(1)).tanh(),
    "the largest": lambda model, h: h * torch.zeros_like(h).scatter(1, h.topk(3).indices, 1.0),
    "attention": lambda model, h: F.scaled_dot_product_attention(h[None], h[None], h[None])[0],
    "computed weights": lambda model, h: F.linear(h, F.normalize(model.second.weight.T @ model.second.weight)).tanh(),
    "numbers of NumPy": lambda model, h: h.tanh() * float(model.settings.numbers[0]),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("what", ODD)
def test_equals_the_plain_loop(what: str, order: int) -> None:
    torch.manual_seed(0)
    model = Odd(ODD[what]).double()
    assert_follows_loop(model, MAML(model, inner_lr=0.1, inner_steps=2, order=order), make_episodes(shape=(7,)))


def test_what_forward_counts_outside_is_counted_as_often_as_it_is_called() -> None:
    model = Odd(with_a_count)
    maml = MAML(model)
    CALLS["n"] = 0
    for _ in range(3):
        maml.predict({}, torch.rand(2, 5, 7))
    assert CALLS["n"] == 6


def change_a_global(model: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FACTOR", 4.0)


CHANGES: dict[str, Callable[[Odd, pytest.MonkeyPatch], object]] = {
    "a global variable": change_a_global,
    "a class attribute": lambda model, monkeypatch: monkeypatch.setattr(Odd, "factor", 5.0),
    "the class's forward": lambda model, monkeypatch: monkeypatch.setattr(
        Odd, "forward", lambda self, x: self.second(self.first(x))
    ),
    "an object's attribute": lambda model, monkeypatch: setattr(model.settings, "scale", 7.0),
    "an array's value": lambda model, monkeypatch: model.settings.numbers.__setitem__(0, 7.0),
    "a part": lambda model, monkeypatch: setattr(model, "first", nn.Linear(7, 6)),
    "a hook": lambda model, monkeypatch: model.second.register_forward_hook(lambda part, given, out: 2 * out),
    "a function": lambda model, monkeypatch: setattr(model, "between", lambda model, h: h.relu()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_after_the_first_call_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def between(model: Odd, h: Tensor) -> Tensor:
        settings = model.settings
        return h.tanh() * FACTOR * model.factor * settings.scale * float(settings.numbers[0])

    torch.manual_seed(0)
    model, x = Odd(between), torch.rand(3, 5, 7)
    maml = MAML(model)
    before = maml.predict({}, x)
    assert "forward: all tasks at once" in maml.describe()
    CHANGES[what](model, monkeypatch)
    after = maml.predict({}, x)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, torch.stack([model(each) for each in x]))


def test_a_model_that_changes_all_the_time_runs_as_it_is_written() -> None:
    model, x = Odd(lambda model, h: h * model.epoch), torch.rand(3, 5, 7)
    maml = MAML(model)
    for epoch in range(40):
        model.epoch = epoch + 0.5
        torch.testing.assert_close(maml.predict({}, x), torch.stack([model(each) for each in x]))
    assert "has changed 32 times" in maml.describe()

"""Few inner steps in memory: the same loss and meta-gradient, and no more graphs than were asked for."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

import pytest
import torch
import torch.nn.functional as F
from native_nets import make
from small import make_episodes
from torch import Tensor, nn

from maml_fast import MAML, use_engine
from maml_fast.algorithms import LearnedOptimizer, MetaLSTM
from maml_fast.inner_loop._segments import MOST_PARTS
from maml_fast.inner_loop._state import State
from maml_fast.inner_loop._walk import Walk

STEPS = 19  # more than a way has parts
KEPT = (1, 2, 3, 18, 19, 21)


def net(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 5)).double()


CASES: dict[str, Callable[..., MAML]] = {
    "gradient descent": lambda **k: MAML(net(), inner_lr=0.1, inner_steps=STEPS, **k),
    "inner Adam and a learned rate": lambda **k: MAML(
        net(), inner_lr=0.05, inner_steps=STEPS, inner_optimizer="adam", learn_inner_lr=True, **k
    ),
    "losses and rates of every step": lambda **k: MAML(
        net(), inner_lr=0.1, inner_steps=STEPS, learn_inner_lr="per_step", multi_step_iterations=10, **k
    ),
    "dropout": lambda **k: MAML(net(0.3), inner_lr=0.1, inner_steps=STEPS, **k),
    "the head adapts": lambda **k: MAML(net(), inner_lr=0.1, inner_steps=STEPS, adapted="head", **k),
    "learned optimizer": lambda **k: LearnedOptimizer(net(), inner_lr=0.1, inner_steps=STEPS, order=2, hidden=3, **k),
    "LSTM": lambda **k: MetaLSTM(net(), inner_lr=0.1, inner_steps=STEPS, order=2, hidden=3, **k),
}


def outcome(make: Callable[..., MAML], engine: str, kept: int | None, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Loss, query losses and meta-gradient, and the random numbers that come next."""
    torch.manual_seed(3)
    maml = make(inner_memory=kept)
    torch.manual_seed(4)
    with use_engine(engine):
        out = maml(make_episodes(3, shape=shape), per_step=True)
    drawn = torch.rand(1)
    parameters = [parameter for parameter in maml.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(out.loss, parameters, allow_unused=True, materialize_grads=True)
    return out.loss.detach(), out.query_losses, drawn, torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.backendless  # this net has no layer that a backend computes
@pytest.mark.parametrize("engine", ["batched", "loop"])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_equals_what_keeps_all_steps(make: Callable[..., MAML], engine: str) -> None:
    *exact, gradient = outcome(make, engine, None, (1, 6, 6))
    for kept in KEPT:
        *same, found = outcome(make, engine, kept, (1, 6, 6))
        assert all(map(torch.equal, same, exact))
        assert (found - gradient).norm() <= 1e-12 * gradient.norm()


OF_CONV4: dict[str, dict[str, object]] = {
    "gradient descent": {},
    "learned rate": {"learn_inner_lr": True},
    "batch norm of every step": {"batch_norm": "per_step"},
    "losses and rates of every step": {"learn_inner_lr": "per_step", "multi_step_iterations": 10},
}


@pytest.mark.native
@pytest.mark.parametrize("options", OF_CONV4.values(), ids=OF_CONV4)
def test_the_native_engine_gives_the_same_bits(options: dict[str, object]) -> None:
    model = make("conv4")
    wanted = outcome(
        lambda **k: MAML(model, inner_lr=0.1, inner_steps=STEPS, **options, **k), "native", None, model.shape
    )
    for kept in KEPT:
        found = outcome(
            lambda **k: MAML(model, inner_lr=0.1, inner_steps=STEPS, **options, **k), "native", kept, model.shape
        )
        assert all(map(torch.equal, found, wanted))


def test_buffers_go_back_with_the_steps() -> None:
    """A spectral norm's vectors move at every call, for each task by itself."""

    def make(**options: object) -> MAML:
        model = net()
        nn.utils.parametrizations.spectral_norm(model[1])
        return MAML(model, inner_lr=0.1, inner_steps=STEPS, **options)

    *exact, gradient = outcome(make, "loop", None, (1, 6, 6))
    *same, found = outcome(make, "loop", 2, (1, 6, 6))
    assert all(map(torch.equal, same, exact))
    assert (found - gradient).norm() <= 1e-12 * gradient.norm()


class Alive(torch.autograd.Function):
    """The identity, which counts how many graphs it is part of."""

    tokens: WeakSet[object]
    most: int

    @staticmethod
    def forward(ctx, x):
        ctx.token = type("Token", (), {})()
        Alive.tokens.add(ctx.token)
        Alive.most = max(Alive.most, len(Alive.tokens))
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("kept", [1, 2, 4, None])
@pytest.mark.parametrize("engine", ["batched", "loop"])
def test_so_many_graphs_are_alive(engine: str, kept: int | None) -> None:
    Alive.tokens, Alive.most = WeakSet(), 0
    maml = MAML(
        net(), inner_lr=0.1, inner_steps=12, loss_fn=lambda a, b: F.cross_entropy(Alive.apply(a), b), inner_memory=kept
    )
    with use_engine(engine):
        maml(make_episodes(1, shape=(1, 6, 6)))
    assert Alive.most <= (kept or 12) + 1  # and the queries'
    assert Alive.most >= (kept or 12)


@pytest.mark.parametrize("engine", ["batched", "loop"])
def test_few_weights_are_kept_of_many_steps(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, most, state = WeakSet(), 0, Walk.state

    def counted(walk: Walk) -> State:
        nonlocal most
        made = state(walk)
        kept.add(next(iter(made.fast.values())))
        most = max(most, len(kept))
        return made

    monkeypatch.setattr(Walk, "state", counted)
    maml = MAML(net(), inner_lr=0.01, inner_steps=300, inner_memory=1)
    with use_engine(engine):
        maml(make_episodes(1, shape=(1, 6, 6)))
    assert MOST_PARTS < most <= 3 * MOST_PARTS


def test_a_model_that_does_something_else_the_second_time_is_refused() -> None:
    class Restless(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Restless.calls += 1
            return super().forward(x.flatten(1)) * 0.9**Restless.calls

    model = Restless(36, 5).double()
    with pytest.raises(RuntimeError, match=r"something else when inner steps were recomputed.*inner_memory=None"):
        MAML(model, inner_lr=0.5, inner_steps=4, inner_memory=1)(make_episodes(1, shape=(1, 6, 6)))
    MAML(model, inner_lr=0.5, inner_steps=4)(make_episodes(1, shape=(1, 6, 6)))


@pytest.mark.parametrize("kept", [0, -1, 1.5, True, "some"])
def test_bad_numbers_of_steps(kept: object) -> None:
    with pytest.raises(ValueError, match=f"inner_memory must be .*; got {kept!r}"):
        MAML(net(), inner_memory=kept)

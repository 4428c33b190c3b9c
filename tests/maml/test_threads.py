"""Learners in several threads at once: made there, called there, and while other threads draw random numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from small import conv_net, make_episodes
from torch import Tensor, nn

from maml_fast import MAML, EpisodeSampler, data, evaluate


class Branching(nn.Module):
    """Has no recording: it looks at values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = nn.Linear(100, 6).double(), nn.Linear(6, 5).double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x.flatten(1)).tanh()
        return self.other(hidden if float(hidden.sum()) > 0 else -hidden)


@contextmanager
def random_numbers_drawn() -> Iterator[None]:
    """By another thread, all the while."""
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.randn(100)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def loss_and_engine(model: nn.Module) -> tuple[float, str]:
    learner, episodes = MAML(model, inner_lr=0.1, inner_steps=2), make_episodes()
    loss = learner(episodes).loss
    loss.backward()
    return loss.item(), learner.engine_for(episodes)


@pytest.mark.parametrize("make", [conv_net, Branching])
def test_made_in_several_threads(make: Callable[[], nn.Module]) -> None:
    models = [make() for _ in range(12)]
    wanted, engine = loss_and_engine(make())
    with random_numbers_drawn(), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(loss_and_engine, models))
    assert [loss for loss, _ in found] == pytest.approx([wanted] * 12, rel=1e-12)
    assert {each for _, each in found} == {engine}


@pytest.mark.parametrize("make", [conv_net, Branching])
def test_one_is_judged_while_it_trains(make: Callable[[], nn.Module]) -> None:
    """Each result is that of some state of the model, which no call leaves changed."""
    learner, episodes = MAML(make(), inner_lr=0.1, inner_steps=2), make_episodes()
    before = list(learner.model.parameters())
    wanted = learner(episodes).loss.item()
    bank = data.make_noise(8, 4, (1, 10, 10))
    sampler = EpisodeSampler(bank, 5, 1, 2, 4)

    def judged(_: int) -> float | None:
        double = (each.to(torch.float64) for each in sampler)
        return evaluate(learner, double, 8).accuracy

    alone = judged(0)
    with ThreadPoolExecutor(4) as pool:
        accuracies = pool.map(judged, range(6))
        losses = pool.map(lambda _: learner(episodes).loss.item(), range(12))
        assert list(losses) == pytest.approx([wanted] * 12, rel=1e-12)
        assert list(accuracies) == [alone] * 6
    assert all(one is other for one, other in zip(learner.model.parameters(), before, strict=True))

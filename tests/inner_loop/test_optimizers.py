"""Inner Adam: its steps are those of ``torch.optim.Adam``, and the meta-gradient flows through them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small import make_episodes
from torch import nn
from torch.func import functional_call

from maml_fast import MAML

STEPS, LR = 5, 1e-2


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 8), nn.Tanh(), nn.Linear(8, 5)).double()


def with_a_dead_unit() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 8), nn.ReLU(), nn.Linear(8, 5)).double()
    with torch.no_grad():
        model[1].bias[3] = -1e3
    return model


@pytest.mark.parametrize("make", [net, with_a_dead_unit])
def test_steps_are_those_of_torch(make):
    episodes = make_episodes()
    model = make()
    fast = MAML(model, inner_lr=LR, inner_steps=STEPS, inner_optimizer="adam").adapt(*episodes[:2])
    for task, (x, y) in enumerate(zip(*episodes[:2], strict=True)):
        theirs = copy.deepcopy(model)
        optimizer = torch.optim.Adam(theirs.parameters(), lr=LR)
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(theirs(x), y).backward()
            optimizer.step()
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(fast[name][task], parameter, rtol=0, atol=1e-12)


def plain_meta_loss(model, episodes):
    """The loop over the tasks with Adam written out (Kingma & Ba 2015, algorithm 1)."""
    total = 0.0
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes, strict=True):
        weights = dict(model.named_parameters())
        means, squares = (dict.fromkeys(weights, 0.0) for _ in range(2))
        for step in range(1, STEPS + 1):
            loss = F.cross_entropy(functional_call(model, weights, (x_spt,)), y_spt)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            for (name, weight), g in zip(list(weights.items()), gradients, strict=True):
                means[name] = 0.9 * means[name] + 0.1 * g
                squares[name] = 0.999 * squares[name] + 0.001 * g * g
                mean, square = means[name] / (1 - 0.9**step), squares[name] / (1 - 0.999**step)
                weights[name] = weight - LR * mean / (square.sqrt() + 1e-8)
        total = total + F.cross_entropy(functional_call(model, weights, (x_qry,)), y_qry)
    return total / len(episodes[0])


def test_meta_gradient_is_that_of_the_loop():
    episodes, model = make_episodes(), net()
    expected = torch.autograd.grad(plain_meta_loss(model, episodes), list(model.parameters()))
    loss = MAML(model, inner_lr=LR, inner_steps=STEPS, inner_optimizer="adam")(episodes).loss
    for found, wanted in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        assert wanted.norm() > 0
        assert (found - wanted).norm() <= 1e-8 * wanted.norm()


def test_meta_gradient_of_a_dead_unit_is_zero_and_not_nan():
    model = with_a_dead_unit()
    loss = MAML(model, inner_lr=LR, inner_steps=STEPS, inner_optimizer="adam")(make_episodes()).loss
    gradient = torch.autograd.grad(loss, model[1].weight)[0]
    assert (gradient[3] == 0).all()
    assert gradient.isfinite().all()
    assert gradient.norm() > 0

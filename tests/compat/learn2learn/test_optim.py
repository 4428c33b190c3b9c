"""Transformed gradients, against plain autograd in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from maml_fast.compat import learn2learn as l2l
from maml_fast.compat.learn2learn import optim

LR = 0.1
X = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def forward(weights, x):
    return torch.tanh(x @ weights[0].t() + weights[1]) @ weights[2].t() + weights[3]


class Learned(nn.Module):
    """A rate for every element."""

    def __init__(self, parameter):
        super().__init__()
        self.rate = nn.Parameter(torch.full_like(parameter, 0.5))

    def forward(self, gradient):
        return self.rate * gradient


@pytest.mark.parametrize("adapt_transform", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
def test_gbml_follows_plain_autograd(adapt_transform, first_order):
    model = net()
    gbml = l2l.algorithms.GBML(model, Learned, lr=LR, adapt_transform=adapt_transform, first_order=first_order)
    learner = gbml.clone()
    weights = starts = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    rates = first_rates = [torch.full_like(weight, 0.5).requires_grad_() for weight in weights]
    for step in range(3):
        learner.adapt(learner(X + step).pow(2).mean())
        loss = forward(weights, X + step).pow(2).mean()
        if adapt_transform and step:
            steps = torch.autograd.grad(loss, rates, create_graph=not first_order, retain_graph=True)
            rates = [rate - LR * each for rate, each in zip(rates, steps, strict=True)]
        graph = not first_order or adapt_transform
        gradients = torch.autograd.grad(loss, weights, create_graph=graph)
        weights = [w - LR * rate * g for w, rate, g in zip(weights, rates, gradients, strict=True)]
    loss, expected = learner(X).sin().mean(), forward(weights, X).sin().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)
    loss.backward()
    expected.backward()
    assert len(list(gbml.parameters())) == 8
    for parameter, wanted in zip(gbml.parameters(), [*starts, *first_rates], strict=True):
        torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-12, atol=1e-12)


def test_gbml_adapts_what_it_may():
    model = net()
    model[0].weight.requires_grad_(False)
    learner = l2l.algorithms.GBML(model, Learned, allow_nograd=True).clone()
    learner.adapt(learner(X).pow(2).mean())
    assert torch.equal(learner.module[0].weight, model[0].weight)
    assert not torch.equal(learner.module[0].bias, model[0].bias)
    with pytest.raises(RuntimeError, match="does not require grad"):
        learner.adapt(learner(X).pow(2).mean(), allow_nograd=False)


FILTERS = torch.arange(24, dtype=torch.float64).view(2, 3, 2, 2).sin()


def test_meta_curvature_maps_every_dimension():
    transform = optim.MetaCurvatureTransform(FILTERS, lr=0.5)
    torch.testing.assert_close(transform(FILTERS), 0.5 * FILTERS)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.copy_(torch.randn_like(parameter))
    flat = FILTERS.permute(2, 3, 0, 1).reshape(4, 2, 3)  # [H * W, Cout, Cin]
    mapped = torch.einsum("pq,oi,qij,jk->pok", transform.mc_f, transform.mc_in, flat, transform.mc_out)
    torch.testing.assert_close(transform(FILTERS), 0.5 * mapped.view(2, 2, 2, 3).permute(2, 3, 0, 1))
    matrix = optim.MetaCurvatureTransform(FILTERS[0, 0])
    assert torch.equal(matrix(FILTERS[0, 0]), FILTERS[0, 0])
    assert optim.MetaCurvatureTransform(torch.ones(3))(torch.ones(3)).tolist() == [1, 1, 1]
    with pytest.raises(NotImplementedError, match="1, 2 or 4 dimensions, got 3"):
        optim.MetaCurvatureTransform(torch.ones(1, 1, 1))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 2, 2)])
def test_kronecker_and_module_transforms_keep_shapes(shape):
    parameter = torch.randn(shape)
    kronecker = optim.KroneckerTransform(l2l.nn.KroneckerLinear)(parameter)
    torch.testing.assert_close(kronecker(parameter), parameter)
    linear = optim.ModuleTransform(nn.Linear)(parameter)
    expected = linear.transform(parameter.reshape(1, -1)).view(shape)
    assert torch.equal(linear(parameter), expected)


def test_a_dictionary_of_transforms():
    model = net()
    chosen = optim.TransformDictionary({model[0]: Learned, model[2].bias: Learned})
    update = optim.ParameterUpdate(model.parameters(), chosen)
    assert update.transforms_indices == [0, 1, None, 2]
    loss = model(X).pow(2).mean()
    updates = update(loss, model.parameters(), retain_graph=True)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for found, gradient, factor in zip(updates, gradients, (0.5, 0.5, 1, 0.5), strict=True):
        torch.testing.assert_close(found, factor * gradient)
    with pytest.raises(ValueError, match="modules or parameters, got 'weight'"):
        optim.TransformDictionary({"weight": Learned})
    with pytest.raises(ValueError, match=r"transform must return an nn.Module or None, got 1.0"):
        optim.ParameterUpdate(model.parameters(), lambda _: 1.0)


def test_differentiable_sgd():
    model = net()
    model(X).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    by_grad, given = l2l.clone_module(model), l2l.clone_module(model)
    optim.DifferentiableSGD(LR)(given, [*gradients[:3], None])
    assert torch.equal(given[2].bias, model[2].bias)
    torch.testing.assert_close(given[0].weight, model[0].weight - LR * gradients[0])
    for twin, parameter in zip(by_grad.parameters(), model.parameters(), strict=True):
        twin.retain_grad()
        twin.grad = parameter.grad
    optim.DifferentiableSGD(LR)(by_grad)
    torch.testing.assert_close(by_grad[2].bias, model[2].bias - LR * gradients[3])


def test_a_learnable_optimizer_learns_by_the_loss_after_its_step():
    model = net()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    learned = optim.LearnableOptimizer(model, Learned, lr=LR)
    rates = [torch.full_like(weight, 0.5) for weight in weights]
    optimizer = torch.optim.SGD(learned.parameters(), lr=1.0)
    assert len(list(learned.parameters())) == 4
    for step in range(3):
        learned.zero_grad()
        optimizer.zero_grad()
        model(X + step).pow(2).mean().backward()
        optimizer.step()
        learned.step()
        leaves = [weight.clone().requires_grad_() for weight in weights]
        gradients = torch.autograd.grad(forward(leaves, X + step).pow(2).mean(), leaves)
        if step:  # the loss's gradient reaches the rates through the last step
            rates = [r - g * -LR * before for r, g, before in zip(rates, gradients, last, strict=True)]  # noqa: F821
        weights = [w - LR * r * g for w, r, g in zip(weights, rates, gradients, strict=True)]
        last = gradients  # noqa: F841
    for parameter, wanted in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter, wanted, rtol=1e-12, atol=1e-12)


def test_learners_of_gbml_can_be_copied():
    gbml = l2l.algorithms.GBML(net(), Learned, lr=LR)
    other = copy.deepcopy(gbml)
    other.load_state_dict(gbml.state_dict())
    assert "compute_update.transforms_modules.0.rate" in gbml.state_dict()
    assert torch.equal(other(X), gbml(X))

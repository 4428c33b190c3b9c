"""The meta-gradient against independent oracles and finite differences, in float64."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import oracles
import pytest
import torch
import torch.nn.functional as F
from oracles import ConvNet, Problem, loop_loss, vmap_loss
from torch import nn
from torch.func import functional_call, grad, vmap

from maml_fast.inner_loop import _engines as engines
from maml_fast.maml import MAML, use_engine
from maml_fast.models import MLP, Conv4, TutorialNet

TOLERANCE = 1e-9  # relative, of the whole meta-gradient


@pytest.fixture(autouse=True, params=["composed", pytest.param("native", marks=pytest.mark.native)])
def inner_loop(request, monkeypatch):
    """Everything here holds for both forms of the inner loop, where both can run."""
    if request.param == "composed":
        monkeypatch.setattr(engines, "native_loop", lambda *_: "switched off by a test")


class PlainNet(nn.Module):
    """As a user would write it: torch.nn layers, some of the rest as functions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(self.bn2(self.conv2(x)), 2).relu()
        return self.fc(x.flatten(1))


class SmallTutorialNet(TutorialNet):
    hidden = 8


NETS = {
    "plain": (PlainNet, ConvNet((("conv", "norm", "relu", "pool"),) * 2), (1, 10, 10)),
    "conv4": (
        partial(Conv4, hidden=8, image_size=16),
        ConvNet((("conv", "norm", "relu", "pool"),) * 4),
        (1, 16, 16),
    ),
    "conv4-strided": (
        partial(Conv4, hidden=8, image_size=10, in_channels=3, strided=True),
        ConvNet((("conv", "norm", "relu"),) * 4, stride=2, gamma=False, eps=1e-3, average=True),
        (3, 10, 10),
    ),
    "tutorial": (SmallTutorialNet, oracles.TUTORIAL, (1, 28, 28)),
    "mlp": (partial(MLP, (50, 16, 16, 5), init_std=0.3), oracles.mlp, (50,)),
}


def make(net, n_tasks=3, n_support=5, n_query=10, seed=0):
    """A double-precision module with random parameters, the oracle's function, and episodes."""
    torch.manual_seed(seed)
    module, network, shape = NETS[net]
    model = module().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    episodes = (
        torch.rand(n_tasks, n_support, *shape, dtype=torch.float64),
        torch.arange(n_support).remainder(5).expand(n_tasks, -1),
        torch.rand(n_tasks, n_query, *shape, dtype=torch.float64),
        torch.randint(5, (n_tasks, n_query)),
    )
    return model, network, episodes


def elementary(network):
    """The network with batch norm in elementary operations, as the vmap oracle needs it."""
    if not isinstance(network, ConvNet):
        return network
    return ConvNet(**{**vars(network), "batch_norm": oracles.elementary_batch_norm})


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def assert_close(ours, theirs, tolerance=TOLERANCE):
    ours, theirs = flat(ours), flat(theirs)
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= tolerance * theirs.norm()


def meta_gradient(maml, episodes):
    out = maml(episodes)
    return out.loss.detach(), torch.autograd.grad(out.loss, list(maml.parameters()))


def oracle_gradients(network, parameters, rates, episodes, *, steps, order, adapted=None, loss=F.cross_entropy):
    """Loss and gradient (parameters, then those rates that require it) by both oracles."""
    adapted = range(len(parameters)) if adapted is None else adapted
    rates = list(rates) if isinstance(rates, (list, tuple)) else [rates] * len(adapted)
    inputs = [*parameters, *{id(r): r for r in rates if isinstance(r, torch.Tensor) and r.requires_grad}.values()]
    for loss_of, net in ((loop_loss, network), (vmap_loss, elementary(network))):
        value = loss_of(Problem(net, steps, order, adapted, loss), parameters, rates, episodes)
        yield value.detach(), torch.autograd.grad(value, inputs)


def assert_equals_oracles(loss, gradient, expected):
    for oracle_loss, oracle_gradient in expected:
        torch.testing.assert_close(loss, oracle_loss, rtol=1e-12, atol=0)
        assert_close(gradient, oracle_gradient)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("net", NETS)
def test_equals_both_oracles(net, order, steps):
    model, network, episodes = make(net)
    loss, gradient = meta_gradient(MAML(model, inner_lr=0.3, inner_steps=steps, order=order), episodes)
    expected = oracle_gradients(network, list(model.parameters()), 0.3, episodes, steps=steps, order=order)
    assert_equals_oracles(loss, gradient, expected)


@pytest.mark.parametrize("order", [1, 2])
def test_anil_adapts_the_head_and_meta_learns_the_rest(order):
    model, network, episodes = make("plain")
    maml = MAML(model, inner_lr=0.3, inner_steps=3, order=order, adapted="head")
    assert maml.adapted == ("fc.weight", "fc.bias")
    loss, gradient = meta_gradient(maml, episodes)
    parameters = list(model.parameters())
    expected = oracle_gradients(network, parameters, 0.3, episodes, steps=3, order=order, adapted=[8, 9])
    assert_equals_oracles(loss, gradient, expected)
    assert gradient[0].norm() > 0


@pytest.mark.parametrize("order", [1, 2])
def test_rates_of_single_parameters(order):
    model, network, episodes = make("plain")
    elementwise = torch.rand(5, 32, dtype=torch.float64)
    rates = {"*": 0.05, "conv2": 0.3, "bn1.weight": torch.tensor(0.7, dtype=torch.float64), "fc.weight": elementwise}
    by_position = [0.05, 0.05, rates["bn1.weight"], 0.05, 0.3, 0.3, 0.05, 0.05, elementwise, 0.05]
    loss, gradient = meta_gradient(MAML(model, inner_lr=rates, inner_steps=2, order=order), episodes)
    expected = oracle_gradients(network, list(model.parameters()), by_position, episodes, steps=2, order=order)
    assert_equals_oracles(loss, gradient, expected)


@pytest.mark.parametrize("order", [1, 2])
def test_one_learnable_rate(order):
    model, network, episodes = make("plain")
    maml = MAML(model, inner_lr=0.3, inner_steps=3, order=order, learn_inner_lr=True)
    gradient = torch.autograd.grad(maml(episodes).loss, [*model.parameters(), maml.inner_lr])
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    expected = oracle_gradients(network, list(model.parameters()), [rate] * 10, episodes, steps=3, order=order)
    for _, oracle_gradient in expected:
        assert_close(gradient[:-1], oracle_gradient[:-1])
        assert_close(gradient[-1:], oracle_gradient[-1:])


@pytest.mark.parametrize("order", [1, 2])
def test_learnable_rates_of_single_parameters(order):
    model, network, episodes = make("plain")
    names = [name for name, _ in model.named_parameters()]
    start = {name: 0.05 + 0.02 * i for i, name in enumerate(names)}
    maml = MAML(model, inner_lr=start, inner_steps=2, order=order, learn_inner_lr=True)
    gradient = torch.autograd.grad(maml(episodes).loss, [*model.parameters(), *(maml.inner_lr[n] for n in names)])
    rates = [torch.tensor(rate, dtype=torch.float64, requires_grad=True) for rate in start.values()]
    for _, oracle_gradient in oracle_gradients(
        network, list(model.parameters()), rates, episodes, steps=2, order=order
    ):
        assert_close(gradient[:10], oracle_gradient[:10])
        assert_close(gradient[10:], oracle_gradient[10:])


@pytest.mark.parametrize("order", [1, 2])
def test_regression_with_a_loss_of_the_users(order):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x = torch.rand(4, 15, 1, dtype=torch.float64) * 6 - 3
    y = torch.sin(x + torch.rand(4, 1, 1, dtype=torch.float64))
    episodes = (x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])

    def network(parameters, inputs):
        return F.linear(torch.tanh(F.linear(inputs, *parameters[:2])), *parameters[2:])

    loss, gradient = meta_gradient(MAML(model, inner_lr=0.1, inner_steps=3, order=order, loss_fn=F.mse_loss), episodes)
    expected = oracle_gradients(network, list(model.parameters()), 0.1, episodes, steps=3, order=order, loss=F.mse_loss)
    assert_equals_oracles(loss, gradient, expected)


@pytest.mark.parametrize("net", ["plain", "conv4-strided", "tutorial", "mlp"])
def test_orders_differ_in_gradient_and_agree_in_loss(net):
    model, _, episodes = make(net)
    loss1, first = meta_gradient(MAML(model, inner_lr=0.3, inner_steps=3, order=1), episodes)
    loss2, second = meta_gradient(MAML(model, inner_lr=0.3, inner_steps=3, order=2), episodes)
    assert loss1 == loss2
    assert (flat(first) - flat(second)).norm() > 0.01 * flat(second).norm()


@pytest.mark.parametrize("engine", ["batched", "loop", None])
@pytest.mark.parametrize("net", ["plain", "conv4-strided", "mlp"])
def test_second_order_equals_finite_differences_through_three_steps(net, engine):
    with nullcontext() if engine is None else use_engine(engine):
        assert_equals_finite_differences(net)


def assert_equals_finite_differences(net):
    model, _, episodes = make(net, n_tasks=2)
    maml = MAML(model, inner_lr=0.2, inner_steps=3, order=2)
    _, gradient = meta_gradient(maml, episodes)
    gradient, parameters = flat(gradient), list(model.parameters())
    theta = flat(parameters).detach()

    def objective(at):
        with torch.no_grad():
            nn.utils.vector_to_parameters(at, parameters)
            return maml(episodes).loss

    torch.manual_seed(1)
    directions = [F.normalize(torch.randn_like(theta), dim=0) for _ in range(4)]
    directions += [F.one_hot(i, len(theta)).to(theta) for i in torch.randint(len(theta), (4,))]
    directions.append(gradient / gradient.norm())
    h = 1e-6
    for direction in directions:
        numerical = (objective(theta + h * direction) - objective(theta - h * direction)) / (2 * h)
        torch.testing.assert_close(gradient @ direction, numerical, rtol=1e-6, atol=1e-8)


def test_first_order_is_not_the_gradient_of_the_objective():
    model, _, episodes = make("plain", n_tasks=2)
    _, second = meta_gradient(MAML(model, inner_lr=0.2, inner_steps=3, order=2), episodes)
    _, first = meta_gradient(MAML(model, inner_lr=0.2, inner_steps=3, order=1), episodes)
    direction = flat(second) / flat(second).norm()
    assert abs(flat(first) @ direction / flat(second).norm() - 1) > 1e-3


@pytest.mark.parametrize("order", [1, 2])
def test_of_many_tasks_is_the_mean_over_single_tasks(order):
    model, _, episodes = make("plain", n_tasks=5)
    maml = MAML(model, inner_lr=0.3, inner_steps=2, order=order)
    loss, gradient = meta_gradient(maml, episodes)
    singles = [meta_gradient(maml, tuple(tensor[t : t + 1] for tensor in episodes)) for t in range(5)]
    torch.testing.assert_close(loss, torch.stack([single for single, _ in singles]).mean(), rtol=1e-12, atol=0)
    assert_close(gradient, [torch.stack(each).mean(dim=0) for each in zip(*(g for _, g in singles), strict=True)])


def test_functional_transforms_over_library_batch_norm_are_wrong_and_ours_is_right():
    """``vmap(grad(...))`` over ``F.batch_norm``: right loss, right first order, wrong second order, in silence."""
    model, network, episodes = make("plain")
    parameters = list(model.parameters())

    def error(order, loss_of):
        problem = Problem(network, 2, order, range(10))  # batch norm by F.batch_norm
        truth = loop_loss(problem, parameters, [0.3] * 10, episodes)
        tried = loss_of(problem, parameters, [0.3] * 10, episodes)
        torch.testing.assert_close(tried, truth, rtol=1e-12, atol=0)
        wanted, got = (flat(torch.autograd.grad(value, parameters)) for value in (truth, tried))
        return (got - wanted).norm() / wanted.norm()

    assert error(1, vmap_loss) < TOLERANCE
    assert error(2, vmap_loss) > 1e-3
    for order in (1, 2):
        assert (
            error(
                order,
                lambda problem, *_: (
                    MAML(model, inner_lr=0.3, inner_steps=2, order=problem.order, fused=False)(episodes).loss
                ),
            )
            < TOLERANCE
        )


def test_module_as_users_write_it_in_functional_style_is_wrong_too():
    """The same through ``functional_call``, as PyTorch's own tutorials do it with modules."""
    model, _, episodes = make("plain")
    plain = torch.func.replace_all_batch_norm_modules_(PlainNet().double())
    parameters = dict(model.named_parameters())

    def loss_of(params, x, y):
        return F.cross_entropy(functional_call(plain, params, (x,)), y)

    def task(x_spt, y_spt, x_qry, y_qry):
        gradients = grad(loss_of)(parameters, x_spt, y_spt)
        fast = {name: weight - 0.3 * gradients[name] for name, weight in parameters.items()}
        return loss_of(fast, x_qry, y_qry)

    tried = torch.autograd.grad(vmap(task)(*episodes).mean(), list(parameters.values()))
    _, ours = meta_gradient(MAML(model, inner_lr=0.3, inner_steps=1, order=2), episodes)
    assert (flat(tried) - flat(ours)).norm() > 1e-3 * flat(ours).norm()

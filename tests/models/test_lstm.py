"""The LSTM: torch.nn.LSTM's numbers, its second derivative, and MAML over it against independent programs."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_follows_loop
from torch import Tensor, nn

from maml_fast import MAML, Episodes
from maml_fast._recurrent import lstm, lstm_of_tasks
from maml_fast.models import LSTM

INPUTS, HIDDEN, OUTPUTS = 3, 4, 2
LAYER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class TorchLSTM(nn.Module):
    """What the model says that it is, on torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(INPUTS, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layer(x)[0])

    def named_as_ours(self) -> dict[str, Tensor]:
        return {name.removeprefix("layer.").removesuffix("_l0"): p for name, p in self.named_parameters()}


def seeded(build: type[nn.Module], *sizes: int) -> nn.Module:
    torch.manual_seed(3)
    return build(*sizes)


def model() -> LSTM:
    return seeded(LSTM, INPUTS, HIDDEN, OUTPUTS).double()


def sequences(n_tasks: int = 3, support: int = 4, query: int = 6) -> Episodes:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n_tasks, 2, *shape, dtype=torch.float64, generator=generator)

    return Episodes(normal(support, INPUTS), normal(support, OUTPUTS), normal(query, INPUTS), normal(query, OUTPUTS))


def test_has_torchs_parameters_and_initial_values() -> None:
    ours, theirs = seeded(LSTM, INPUTS, HIDDEN, OUTPUTS), seeded(TorchLSTM).named_as_ours()
    assert list(ours.state_dict()) == [*LAYER, "output.weight", "output.bias"]
    assert set(theirs) == set(ours.state_dict())
    for name, value in ours.named_parameters():
        assert torch.equal(value, theirs[name]), name


def test_has_torchs_outputs_and_gradients() -> None:
    theirs = seeded(TorchLSTM).double()
    ours = model()
    ours.load_state_dict(theirs.named_as_ours())
    x = torch.randn(5, 7, INPUTS, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 7, OUTPUTS, dtype=torch.float64)
    out, expected = ours(x), theirs(x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)
    names = [name for name, _ in ours.named_parameters()]
    gradients = torch.autograd.grad((out * weights).sum(), [x, *ours.parameters()])
    parameters = theirs.named_as_ours()
    wanted = torch.autograd.grad((expected * weights).sum(), [x, *(parameters[name] for name in names)])
    for name, gradient, each in zip(["x", *names], gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, each, rtol=1e-11, atol=1e-13, msg=name)


def test_first_and_second_derivative() -> None:
    torch.manual_seed(0)
    shapes = [(2, 3, 2), (8, 2), (8, 2), (8,), (8,)]  # hidden 2, three steps
    arguments = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(lstm, arguments)
    assert torch.autograd.gradgradcheck(lstm, arguments)


def test_tasks_do_not_mix() -> None:
    torch.manual_seed(0)
    shapes = [(5, INPUTS), (4 * HIDDEN, INPUTS), (4 * HIDDEN, HIDDEN), (4 * HIDDEN,), (4 * HIDDEN,)]
    x, *weights = (torch.randn(3, *shape, dtype=torch.float64) for shape in shapes)
    x = torch.stack([x, -x], dim=1)  # [T, N, L, I]
    together = lstm_of_tasks(x, *weights)
    assert together.shape == (3, 2, 5, HIDDEN)
    for t in range(3):
        alone = lstm(x[t], *(weight[t] for weight in weights))
        torch.testing.assert_close(together[t], alone, rtol=1e-12, atol=1e-14)


def test_a_step_knows_nothing_of_later_ones() -> None:
    net, x = model(), torch.randn(2, 6, INPUTS, dtype=torch.float64)
    changed = torch.cat([x[:, :4], x[:, 4:] + 1], dim=1)
    before, after = net(x), net(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert not torch.isclose(before[:, 4:], after[:, 4:]).any()


@pytest.mark.parametrize("fused", [True, False], ids=["all at once", "as written"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
def test_maml_follows_the_loop_over_tasks(order: int, steps: int, fused: bool) -> None:
    net = model()
    maml = MAML(net, inner_lr=0.3, inner_steps=steps, order=order, loss_fn=F.mse_loss, fused=fused)
    assert_follows_loop(net, maml, sequences(), F.mse_loss)
    assert ("all tasks at once" in maml.describe()) == fused


@pytest.mark.parametrize("order", [1, 2])
def test_maml_follows_torchs_own_layer(order: int) -> None:
    """Through none of our LSTM: a loop over tasks that differentiates torch.nn.LSTM, twice, where that can be done."""
    net = model()
    episodes, rate = sequences(), 0.3
    loss = MAML(net, inner_lr=rate, inner_steps=2, order=order, loss_fn=F.mse_loss)(episodes).loss
    ours = dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters())), strict=True))

    theirs = seeded(TorchLSTM).double()
    parameters = dict(theirs.named_parameters())
    losses = []
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes, strict=True):
        weights = dict(parameters)
        for _ in range(2):
            value = F.mse_loss(torch.func.functional_call(theirs, weights, (x_spt,)), y_spt)
            gradients = torch.autograd.grad(value, list(weights.values()), create_graph=order == 2)
            weights = {name: w - rate * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
        losses.append(F.mse_loss(torch.func.functional_call(theirs, weights, (x_qry,)), y_qry))
    mean = torch.stack(losses).mean()
    torch.testing.assert_close(loss, mean, rtol=1e-12, atol=0)
    wanted = zip(theirs.named_as_ours(), torch.autograd.grad(mean, list(parameters.values())), strict=True)
    for name, gradient in wanted:
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_meta_gradient_by_finite_differences() -> None:
    net, episodes = model(), sequences()
    maml = MAML(net, inner_lr=0.3, inner_steps=2, loss_fn=F.mse_loss)
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(maml(episodes).loss, parameters)
    torch.manual_seed(1)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    first_order = MAML(net, inner_lr=0.3, inner_steps=2, order=1, loss_fn=F.mse_loss)
    gradients = torch.autograd.grad(first_order(episodes).loss, parameters)
    approximate = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))

    def loss_at(step: float) -> float:
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for parameter, d in zip(moved.parameters(), direction, strict=True):
                parameter.add_(step * d)
        return MAML(moved, inner_lr=0.3, inner_steps=2, loss_fn=F.mse_loss)(episodes).loss.item()

    h = 1e-4
    difference = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h)
    assert math.isclose(slope, difference, rel_tol=1e-8)
    assert not math.isclose(approximate, difference, rel_tol=1e-3)  # so the check can fail


def test_reset_draws_the_initial_values_again() -> None:
    net = seeded(LSTM, INPUTS, HIDDEN, OUTPUTS)
    state = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    torch.manual_seed(3)
    net.reset_parameters()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("sizes", [(0, 4, 1), (3, -1, 1), (3, 4, 1.0)])
def test_bad_sizes(sizes: tuple[int, int, int]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"must be (an integer|at least 1), got"):
        LSTM(*sizes)


@pytest.mark.parametrize("shape", [(5, INPUTS), (2, 5, INPUTS + 1), (2, 0, INPUTS), (1, 2, 5, INPUTS)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"made for sequences \[N, L, 3\] of at least one step, got \[") as error:
        model()(torch.zeros(shape, dtype=torch.float64))
    assert str(list(shape)) in str(error.value)

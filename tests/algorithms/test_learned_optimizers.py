"""Learned optimizers against naive ones, a task and a coordinate at a time in double precision; and that they learn."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small import make_episodes
from torch import Tensor, nn
from torch.func import functional_call

from maml_fast import MAML, Episodes, evaluate
from maml_fast.algorithms import LearnedOptimizer, MetaLSTM
from maml_fast.algorithms._coordinates import preprocessed

LEARNERS = [LearnedOptimizer, MetaLSTM]
HIDDEN = 3
STEPS = 3


class Net(nn.Module):
    """Smooth, with a layer without a bias, and with a parameter that no loss depends on.

    It is small, for the naive optimizers take its weights one by one.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 2, 3, bias=False)
        self.idle = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(2, 5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).tanh().mean((2, 3)))


def blocks() -> nn.Module:
    """A conv block as it runs on the fused op, whose bias batch norm takes out."""
    torch.manual_seed(1)
    block = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*block, nn.AvgPool2d(5), nn.Flatten(), nn.Linear(2, 5)).double()


def episodes(n_tasks: int = 3) -> Episodes:
    return make_episodes(n_tasks)


def make(learner: type[MAML], order: int = 1, model: nn.Module | None = None, **options) -> MAML:
    """A learner none of whose parameters is without effect."""
    made = learner(
        Net() if model is None else model, inner_lr=0.3, inner_steps=STEPS, order=order, hidden=HIDDEN, **options
    )
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in made.inner_optimizer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def gradients(learner: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    parameters = dict(learner.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


# The naive ones: Python numbers decide, torch.lstm_cell is the LSTM, a coordinate is a scalar.


def pair(g: Tensor) -> Tensor:
    if abs(float(g.detach())) >= math.exp(-10):
        return torch.stack([g.abs().log() / 10, torch.sign(g)])
    return torch.stack([-torch.ones_like(g), math.exp(10) * g])


class Cell:
    """One coordinate's state in one layer; torch has its gates in the order input, forget, cell, output."""

    def __init__(self, rule: dict[str, Tensor], name: str) -> None:
        order = [k * HIDDEN + i for k in (0, 1, 3, 2) for i in range(HIDDEN)]
        self.parameters = [rule[f"{name}.{each}"][order] for each in ("weight_ih", "weight_hh", "bias")]
        self.state = torch.zeros(2, 1, HIDDEN, dtype=torch.float64).unbind()

    def step(self, x: Tensor) -> Tensor:
        w_ih, w_hh, bias = self.parameters
        self.state = torch.lstm_cell(x[None], self.state, w_ih, w_hh, bias, torch.zeros_like(bias))
        return self.state[0][0]


class NaiveUpdate:
    def __init__(self, rule: dict[str, Tensor]) -> None:
        self.cells, self.rule = [Cell(rule, "lstm0"), Cell(rule, "lstm1")], rule

    def step(self, weight: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        hidden = self.cells[1].step(self.cells[0].step(pair(gradient)))
        return weight + 0.3 * (self.rule["weight"][0] @ hidden + self.rule["bias"][0])


class NaiveCell:
    def __init__(self, rule: dict[str, Tensor]) -> None:
        self.cell, self.rule = Cell(rule, "lstm"), rule
        self.before = {"forget": torch.zeros(1).double(), "input": torch.zeros(1).double()}

    def gate(self, name: str, hidden: Tensor, weight: Tensor) -> Tensor:
        seen = torch.cat([hidden, weight[None], self.before[name]])
        self.before[name] = torch.sigmoid(self.rule[f"{name}.weight"] @ seen + self.rule[f"{name}.bias"])
        return self.before[name][0]

    def step(self, weight: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        hidden = self.cell.step(torch.cat([pair(gradient), pair(loss)]))
        return self.gate("forget", hidden, weight) * weight - self.gate("input", hidden, weight) * gradient


def naive(learner: MAML, order: int, share: list[float]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, the mean over tasks of the query losses' weighted sum over steps, and its gradients by name."""
    model = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(learner.model)).train()
    everything = {name: p.detach().clone().requires_grad_() for name, p in learner.named_parameters()}
    theta = {name[6:]: p for name, p in everything.items() if name.startswith("model.")}
    rule = {name[16:]: p for name, p in everything.items() if name.startswith("inner_optimizer.")}
    kind = NaiveUpdate if isinstance(learner, LearnedOptimizer) else NaiveCell
    total = torch.zeros((), dtype=torch.float64)
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes(), strict=True):
        weights, rules = dict(theta), {}
        for step in range(STEPS):
            loss = F.cross_entropy(functional_call(model, weights, (x_spt,)), y_spt)
            found = torch.autograd.grad(loss, list(weights.values()), create_graph=order == 2, allow_unused=True)
            loss = loss if order == 2 else loss.detach()
            for (name, weight), gradient in zip(list(weights.items()), found, strict=True):
                if gradient is None:
                    assert name == "idle"
                    continue
                rules.setdefault(name, [kind(rule) for _ in range(weight.numel())])
                numbers = zip(rules[name], weight.flatten(), gradient.flatten(), strict=True)
                weights[name] = torch.stack([each.step(w, g, loss) for each, w, g in numbers]).view_as(weight)
            after = F.cross_entropy(functional_call(model, weights, (x_qry,)), y_qry)
            total = total + share[step] * after / 3
    found = torch.autograd.grad(total, list(everything.values()), allow_unused=True, materialize_grads=True)
    return total.detach(), dict(zip(everything, found, strict=True))


@pytest.fixture(scope="module", params=[1, 2], ids=["order 1", "order 2"])
def order(request) -> int:
    return request.param


@pytest.fixture(scope="module", params=[Net, blocks])
def net(request) -> Callable[[], nn.Module]:
    return request.param


@pytest.fixture(scope="module", params=LEARNERS)
def expected(request, net, order) -> tuple[type[MAML], tuple[Tensor, dict[str, Tensor]]]:
    share = [1 / STEPS] * STEPS if request.param is LearnedOptimizer else [0.0] * (STEPS - 1) + [1.0]
    return request.param, naive(make(request.param, order, net()), order, share)


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_follows_the_naive_one(expected, net, order: int, chunk) -> None:
    kind, (loss, theirs) = expected
    learner = make(kind, order, net(), task_chunk=chunk)
    actual = learner(episodes()).loss
    torch.testing.assert_close(actual.detach(), loss, rtol=1e-11, atol=1e-13)
    for name, ours in gradients(learner, actual).items():
        torch.testing.assert_close(ours, theirs[name], rtol=1e-8, atol=1e-10, msg=name)
        assert theirs[name].any() or name == "model.idle"


def test_the_last_steps_loss_as_objective() -> None:
    learner = make(LearnedOptimizer, objective="last")
    loss, theirs = naive(learner, 1, [0.0, 0.0, 1.0])
    actual = learner(episodes()).loss
    torch.testing.assert_close(actual.detach(), loss, rtol=1e-11, atol=1e-13)
    ours = gradients(learner, actual)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    x_spt, y_spt, x_qry, y_qry = episodes()
    logits = learner.predict(learner.adapt(x_spt, y_spt), x_qry)
    torch.testing.assert_close(F.cross_entropy(logits.flatten(0, 1), y_qry.flatten()).detach(), loss)


@pytest.mark.parametrize("kind", LEARNERS)
def test_second_order_is_the_objectives_derivative(kind) -> None:
    learner = make(kind, order=2)
    torch.manual_seed(3)
    ours = gradients(learner, learner(episodes()).loss)
    for part in ("model", "inner_optimizer"):
        names = [name for name in ours if name.startswith(part)]
        along = {name: torch.rand_like(ours[name]) * ours[name].sign() for name in names}
        slope = sum(float((ours[name] * along[name]).sum()) for name in names)
        values = []
        for step in (1e-6, -1e-6):
            moved = copy.deepcopy(learner)
            with torch.no_grad():
                for name in names:
                    moved.get_parameter(name).add_(along[name], alpha=step)
                values.append(float(moved(episodes()).loss))
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5), part
        assert abs(slope) > 1e-3


@pytest.mark.parametrize("kind", LEARNERS)
def test_the_orders_have_one_loss_and_two_gradients(kind) -> None:
    first, second = make(kind, order=1), make(kind, order=2)
    losses = [learner(episodes()).loss for learner in (first, second)]
    torch.testing.assert_close(*losses)
    a, b = gradients(first, losses[0]), gradients(second, losses[1])
    assert (a["model.conv.weight"] - b["model.conv.weight"]).norm() > 0.01 * b["model.conv.weight"].norm()


@pytest.mark.parametrize("kind", LEARNERS)
def test_gradients_of_zero_do_no_harm(kind, order: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 4), nn.ReLU(), nn.Linear(4, 5)).double()
    with torch.no_grad():
        model[1].bias.fill_(-100)  # no unit ever fires
    learner = make(kind, order, model=model)
    ours = gradients(learner, learner(episodes()).loss)
    assert all(bool(gradient.isfinite().all()) for gradient in ours.values())


def test_preprocessing_is_the_papers() -> None:
    numbers = torch.tensor([0.0, 1.0, -2.5, 1e-4, -4.6e-5, 4.5e-5, -3e-7, 1e-30, 300.0]).double().requires_grad_()
    seen = preprocessed(numbers)
    torch.testing.assert_close(seen, torch.stack([pair(number) for number in numbers], dim=1))
    slopes = torch.autograd.grad(seen.sum(), numbers)[0]
    assert bool(slopes.isfinite().all())
    assert float(slopes[0]) == pytest.approx(math.exp(10))


def test_gates_begin_as_gradient_descent() -> None:
    """But for the 0.7 % that a weight loses, and gates' own weights of at most 0.01."""
    x_spt, y_spt, *_ = episodes()
    torch.manual_seed(0)
    ours = MetaLSTM(Net(), inner_lr=0.1, inner_steps=1).adapt(x_spt, y_spt)
    plain = MAML(Net(), inner_lr=0.1, inner_steps=1).adapt(x_spt, y_spt)
    for name, theta in Net().named_parameters():
        step = plain[name] - theta
        assert ((ours[name] - plain[name]).abs() <= 0.008 * theta.abs() + 0.1 * step.abs()).all(), name
    assert torch.equal(ours["idle"], plain["idle"])


@pytest.mark.parametrize("kind", LEARNERS)
def test_adaptation_remembers_nothing_of_the_one_before(kind) -> None:
    learner = make(kind)
    with torch.no_grad():
        assert torch.equal(learner(episodes()).loss, learner(episodes()).loss)
    results = evaluate(learner, [episodes()], 3, inner_steps=5)
    assert len(results.losses) == 6


@pytest.mark.parametrize("kind", LEARNERS)
def test_what_does_not_adapt_is_learned_and_steps_may_be_none(kind) -> None:
    learner = make(kind, adapted="head")
    ours = gradients(learner, learner(episodes()).loss)
    assert ours["model.conv.weight"].any()
    assert list(learner.adapt(*episodes()[:2])) == ["head.weight", "head.bias"]
    unmoved = learner(episodes(), inner_steps=0).loss
    torch.testing.assert_close(unmoved, MAML(Net(), inner_lr=0.1)(episodes(), inner_steps=0).loss)


def test_another_start_for_every_meta_batch() -> None:
    learner = make(LearnedOptimizer, order=2, learn_start=False)
    start = {name: value.clone() for name, value in learner.model.state_dict().items()}
    torch.manual_seed(4)
    loss = learner(episodes()).loss
    ours = gradients(learner, loss)
    assert not torch.equal(loss, learner(episodes()).loss)
    assert all(bool(gradient.any()) != name.startswith("model.") for name, gradient in ours.items())

    torch.manual_seed(4)
    drawn = make(LearnedOptimizer, order=2)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in drawn.model.parameters():
            parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
    expected = drawn(episodes()).loss
    torch.testing.assert_close(loss, expected)
    theirs = gradients(drawn, expected)
    for name, gradient in ours.items():
        if name.startswith("inner_optimizer."):
            torch.testing.assert_close(gradient, theirs[name], msg=name)
    assert all(torch.equal(value, start[name]) for name, value in learner.model.state_dict().items())
    result = evaluate(learner, [episodes()], 3)
    assert result == evaluate(learner, [episodes()], 3)
    with torch.inference_mode():
        losses = learner.task_results(episodes()).losses[-1]
    assert float(losses.mean()) == pytest.approx(result.losses[learner.inner_steps])


def blobs(seed: int) -> Episodes:
    """Tasks of three clouds in four dimensions, whose places are other ones in every task."""
    torch.manual_seed(seed)
    centers = torch.randn(8, 3, 4)
    y = torch.arange(3).repeat(4)
    x_spt, x_qry = (centers[:, labels] + 0.3 * torch.randn(8, len(labels), 4) for labels in (y[:3], y))
    return Episodes(x_spt, y[:3].expand(8, -1), x_qry, y.expand(8, -1))


KINDS = {
    "update": (LearnedOptimizer, {}),
    "update from random starts": (LearnedOptimizer, {"learn_start": False}),
    "gates": (MetaLSTM, {"inner_lr": 0.05}),
}


@pytest.mark.parametrize(("kind", "options"), KINDS.values(), ids=KINDS)
def test_they_learn_to_learn(kind, order: int, options) -> None:
    torch.manual_seed(0)
    learner = kind(nn.Linear(4, 3), inner_steps=3, order=order, **options)
    optimizer = learner.make_optimizer(3e-2)
    held_out = blobs(1000)
    with torch.no_grad():
        before = float(learner.task_results(held_out).losses[-1].mean())
    for seed in range(12):
        optimizer.zero_grad()
        learner(blobs(seed)).loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = float(learner.task_results(held_out).losses[-1].mean())
    assert after < 0.6 * before


class Fickle(nn.Module):
    """Depends on another weight at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(100, 5), nn.Linear(100, 5)]).double()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.heads[self.calls % 2](x.flatten(1))


BAD = {
    "scale": (lambda: LearnedOptimizer(Net(), inner_lr=0), ValueError, "inner_lr must be finite and above 0, got 0"),
    "scale inf": (lambda: LearnedOptimizer(Net(), inner_lr=math.inf), ValueError, "inner_lr.*inf"),
    "scales": (lambda: LearnedOptimizer(Net(), inner_lr={"*": 0.1}), TypeError, "inner_lr must be a number, got"),
    "objective": (lambda: LearnedOptimizer(Net(), objective="sum"), ValueError, "one of trajectory, last; got 'sum'"),
    "hidden": (lambda: LearnedOptimizer(Net(), hidden=0), ValueError, "hidden must be at least 1, got 0"),
    "gate": (
        lambda: MetaLSTM(Net(), inner_lr=1.0),
        ValueError,
        "inner_lr must be finite, above 0 and below 1, got 1.0",
    ),
    "gate 0": (lambda: MetaLSTM(Net(), inner_lr=0), ValueError, "above 0 and below 1, got 0"),
    "gate's hidden": (lambda: MetaLSTM(Net(), hidden=2.0), TypeError, "hidden must be an integer, got 2.0"),
    "order": (lambda: MetaLSTM(Net(), order=3), ValueError, "order must be 1 .* got 3"),
    "model": (lambda: MetaLSTM(torch.relu), TypeError, "nn.Module"),
    "rate": (lambda: MetaLSTM(Net(), learn_inner_lr=True), ValueError, "LearnedRule has no learning rate"),
    "rate of a rule": (
        lambda: MAML(Net(), inner_lr=0.1, inner_optimizer=MetaLSTM(Net()).inner_optimizer),
        ValueError,
        "give inner_lr=None, got 0.1",
    ),
    "rule": (
        lambda: MAML(Net(), inner_optimizer="lstm"),
        ValueError,
        "sgd, adam; got 'lstm', which is not a LearnedRule",
    ),
    "other weights": (
        lambda: make(MetaLSTM, model=Fickle())(episodes()),
        RuntimeError,
        "depends on heads.0.bias.* at some inner steps but not at others",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", LEARNERS)
def test_it_says_what_it_is_and_comes_back_from_its_state(kind) -> None:
    learner = make(kind)
    assert "order 1, 3 inner steps" in learner.describe()
    assert "inner_steps=3, order=1" in repr(learner)
    other = kind(Net(), inner_lr=0.3, inner_steps=STEPS, hidden=HIDDEN)
    other.load_state_dict(learner.state_dict())
    assert torch.equal(other(episodes()).loss, learner(episodes()).loss)

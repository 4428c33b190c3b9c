"""The pieces of MAML++, each by itself and all together, against a naive loop over the tasks in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small import make_episodes
from small import two_blocks as net
from torch import Tensor, nn
from torch.func import functional_call

from maml_fast import MAML, Episodes, evaluate, use_engine
from maml_fast.algorithms import MAMLPlusPlus
from maml_fast.inner_loop._problem import Annealing

NORMS = ("1.weight", "1.bias", "5.weight", "5.bias")


def episodes(n_tasks: int = 3) -> Episodes:
    return make_episodes(n_tasks, n_support=10, n_query=10)


def shaken(learner: MAML) -> MAML:
    """Give every step's own values values of their own."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return learner


def oracle(learner: MAML, steps: int, order: int, weights: list[float]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its gradient by the learner's parameter names, one task after another.

    Rates are [steps] each; the learner's batch norms are those of the steps, if it has such.
    """
    model = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(learner.model)).train()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in learner.named_parameters()}
    theta = {name: parameters[f"model.{name}"] for name, _ in model.named_parameters()}
    per_step = "step_norms.1/weight" in parameters

    def of_step(step: int) -> dict[str, Tensor]:
        return {name: parameters[f"step_norms.{name.replace('.', '/')}"][step] for name in NORMS if per_step}

    def loss(weights: dict[str, Tensor], step: int, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, {**theta, **weights, **of_step(step)}, (x,)), y)

    total = torch.zeros((), dtype=torch.float64)
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes(), strict=True):
        fast = {name: theta[name] for name in learner.adapted}
        for step in range(steps):
            gradients = torch.autograd.grad(
                loss(fast, step, x_spt, y_spt), list(fast.values()), create_graph=order == 2
            )
            rates = [rate_of(learner, parameters, name, step) for name in fast]
            fast = {n: w - r * g for (n, w), r, g in zip(fast.items(), rates, gradients, strict=True)}
            total = total + weights[step] * loss(fast, step, x_qry, y_qry)
    mean = total / len(episodes().x_spt)
    gradients = torch.autograd.grad(mean, list(parameters.values()), allow_unused=True)
    return mean.detach(), {n: g for n, g in zip(parameters, gradients, strict=True) if g is not None}


def rate_of(learner: MAML, parameters: dict[str, Tensor], name: str, step: int) -> Tensor | float:
    own = f"inner_lr.{name.replace('.', '/')}"
    if own in parameters:
        return parameters[own][step]
    return parameters["inner_lr"][step] if "inner_lr" in parameters else learner.inner_lr


def assert_follows(learner: MAML, weights: list[float], order: int) -> None:
    expected, theirs = oracle(learner, len(weights), order, weights)
    learner.zero_grad()
    loss = learner(episodes()).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-11, atol=0)
    ours = {name: parameter.grad for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("task_chunk", [None, 2])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "pieces",
    [
        {"learn_inner_lr": "per_step"},
        {"learn_inner_lr": "per_step", "inner_lr": lambda parameter: 0.2},
        {"batch_norm": "per_step"},
        {"batch_norm": "per_step", "fused": False},
        {"multi_step_iterations": 10},
    ],
    ids=["one rate a step", "a rate a step and parameter", "norms", "norms unfused", "multi-step loss"],
)
def test_each_piece(pieces: dict, order: int, task_chunk: int | None) -> None:
    learner = shaken(MAML(net(), **{"inner_lr": 0.2, "inner_steps": 3} | pieces, order=order, task_chunk=task_chunk))
    learner.begin_iteration(4)
    weights = [0.2, 0.2, 0.6] if "multi_step_iterations" in pieces else [0.0, 0.0, 1.0]
    assert_follows(learner, weights, order)


@pytest.mark.parametrize("order", [1, 2])
def test_all_of_it(order: int) -> None:
    learner = shaken(MAMLPlusPlus(net(), inner_lr=0.2, inner_steps=3, order=order, multi_step_iterations=10))
    learner.begin_iteration(4)
    assert_follows(learner, [0.2, 0.2, 0.6], order)
    assert set(learner.adapted).isdisjoint(NORMS)


def test_the_order_is_annealed() -> None:
    learner = shaken(
        MAMLPlusPlus(net(), inner_lr=0.2, inner_steps=2, first_order_iterations=5, multi_step_iterations=0)
    )
    for iteration, order in ((0, 1), (4, 1), (5, 2)):
        learner.begin_iteration(iteration)
        assert_follows(learner, [0.0, 1.0], order)


def test_step_weights_go_from_even_to_the_last_alone() -> None:
    annealing = Annealing(multi_step_iterations=100)
    assert annealing.step_weights(0, 4) == pytest.approx((0.25, 0.25, 0.25, 0.25))
    assert annealing.step_weights(50, 4) == pytest.approx((0.125, 0.125, 0.125, 0.625))
    assert annealing.step_weights(99, 4) == pytest.approx((0.0075, 0.0075, 0.0075, 0.9775))
    assert annealing.step_weights(100, 4) is None
    assert annealing.step_weights(0, 1) is None
    assert Annealing().step_weights(0, 5) is None


def test_recorded_losses_are_of_the_steps_and_not_weighted() -> None:
    learner = MAMLPlusPlus(net(), inner_lr=0.2, inner_steps=3, multi_step_iterations=10)
    plain = learner(episodes(), per_step=True)
    learner.begin_iteration(0)
    weighted = learner(episodes(), per_step=True)
    torch.testing.assert_close(weighted.query_losses, plain.query_losses)
    torch.testing.assert_close(weighted.loss, plain.query_losses[1:].mean())
    assert learner(episodes()).query_losses is None


def test_more_steps_than_trained_take_the_last_ones_values() -> None:
    learner = shaken(MAMLPlusPlus(net(), inner_lr=0.2, inner_steps=2))
    result = evaluate(learner, [episodes()], 3, inner_steps=4)
    assert len(result.accuracies) == 5
    x_spt, y_spt, x_qry, y_qry = episodes()
    for steps in (0, 1, 4):
        logits = learner.predict(learner.adapt(x_spt, y_spt, inner_steps=steps), x_qry).detach()
        mean = F.cross_entropy(logits.flatten(0, 1), y_qry.flatten())
        assert float(mean) == pytest.approx(result.losses[steps], rel=1e-9)


def test_the_models_own_norms_stay_and_the_state_comes_back() -> None:
    learner = MAMLPlusPlus(net(), inner_lr=0.2, inner_steps=2)
    learner(episodes()).loss.backward()
    own = dict(learner.model.named_parameters())
    assert all(own[name].grad is None for name in NORMS)
    twin = MAMLPlusPlus(net(), inner_lr=0.1, inner_steps=2)
    twin.load_state_dict(shaken(learner).state_dict())
    torch.testing.assert_close(twin(episodes()).loss, learner(episodes()).loss)


def moments(y: Tensor) -> Tensor:
    """Mean and biased variance of y [N, C, H, W], [2, C]."""
    return torch.stack([y.mean(dim=(0, 2, 3)), y.var(dim=(0, 2, 3), correction=0)])


@pytest.mark.parametrize("task_chunk", [None, 2])
def test_statistics_of_every_step(task_chunk: int | None) -> None:
    """One meta-iteration moves them a tenth of the way to the mean over tasks and passes, task by task."""
    learner = shaken(MAML(net(), inner_lr=0.2, inner_steps=2, batch_norm="per_step_running", task_chunk=task_chunk))
    theta = {name: p.detach() for name, p in learner.model.named_parameters()}
    of_first: dict[int, list[Tensor]] = {0: [], 1: []}  # block 0's, by step
    of_second: dict[int, list[Tensor]] = {0: [], 1: []}  # block 1's
    x_spt, y_spt, x_qry, _ = episodes()
    for task in range(3):
        for step in (0, 1):
            taken = learner.adapt(x_spt, y_spt, inner_steps=step)
            own = {name: taken[name][task].detach() for name in learner.adapted}
            norms = {n: learner.step_norms.values()[n].at(step).detach() for n in NORMS}
            note(of_first[step], of_second[step], {**theta, **own, **norms}, x_spt[task])
        after = {name: value[task].detach() for name, value in learner.adapt(x_spt, y_spt).items()}
        note(of_first[1], of_second[1], {**theta, **after}, x_qry[task])
    learner(episodes())
    for block, passes in enumerate((of_first, of_second)):
        for step in (0, 1):
            mean, variance = torch.stack(passes[step]).mean(dim=0)
            kept_mean, kept_variance = learner.step_statistics.mean_and_variance(block)
            torch.testing.assert_close(kept_mean[step], 0.1 * mean)
            torch.testing.assert_close(kept_variance[step], 0.9 + 0.1 * variance)


def note(first: list[Tensor], second: list[Tensor], weights: dict[str, Tensor], x: Tensor) -> None:
    y = F.conv2d(x, weights["0.weight"], weights["0.bias"], padding=1)
    first.append(moments(y))
    z = F.batch_norm(y, None, None, weights["1.weight"], weights["1.bias"], training=True)
    second.append(moments(F.conv2d(F.max_pool2d(z.relu(), 2), weights["4.weight"], weights["4.bias"], padding=1)))


def test_evaluation_by_the_steps_statistics_is_not_transductive() -> None:
    learner = shaken(MAMLPlusPlus(net(), inner_lr=0.2, inner_steps=2, batch_norm="per_step_running"))
    for _ in range(3):
        learner(episodes())
    learner.eval()
    before = [buffer.clone() for buffer in learner.buffers()]
    x_spt, y_spt, x_qry, y_qry = episodes()
    fast = learner.adapt(x_spt, y_spt)
    logits = learner.predict(fast, x_qry)
    torch.testing.assert_close(logits[:, :1], learner.predict(fast, x_qry[:, :1]))  # whatever else is in the batch
    loss = F.cross_entropy(logits.flatten(0, 1), y_qry.flatten())
    torch.testing.assert_close(learner(episodes()).loss, loss)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.buffers(), strict=True))
    learner.train()
    assert not torch.allclose(learner.predict(fast, x_qry)[:, :1], learner.predict(fast, x_qry[:, :1]))
    one = {name: value[0] for name, value in fast.items()}
    theta = {name: p.detach() for name, p in learner.model.named_parameters()}
    torch.testing.assert_close(plain_forward(learner, {**theta, **one}, x_qry[0]), logits[0])


def plain_forward(learner: MAML, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    for block, place in enumerate((0, 4)):
        mean, variance = (each[1] for each in learner.step_statistics.mean_and_variance(block))
        y = F.conv2d(x, weights[f"{place}.weight"], weights[f"{place}.bias"], padding=1)
        norm = (weights[f"{place + 1}.weight"], weights[f"{place + 1}.bias"])
        x = F.max_pool2d(F.batch_norm(y, mean, variance, *norm).relu(), 2)
    return F.linear(x.flatten(1), weights["9.weight"], weights["9.bias"])


def test_statistics_need_conv_blocks() -> None:
    with pytest.raises(ValueError, match="and it has no nn"):
        MAML(
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 5)),
            inner_lr=0.1,
            batch_norm="per_step_running",
        )
    with pytest.raises(ValueError, match="a model of conv blocks, run step by step: fusion is switched off"):
        MAML(net(), inner_lr=0.1, batch_norm="per_step_running", fused=False)(episodes())
    norm_alone = nn.Sequential(nn.BatchNorm2d(1), net()).double()
    with pytest.raises(ValueError, match=r"its conv blocks have \[.*\] channels, its batch norms \[1, .*\]"):
        MAML(norm_alone, inner_lr=0.1, batch_norm="per_step_running")(episodes())


def adam_oracle(order: int, rate: float, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Adam in the form of the paper, one task after another."""
    model = torch.func.replace_all_batch_norm_modules_(net()).train()
    theta = dict(model.named_parameters())
    losses = []
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes(), strict=True):
        fast, m, v = dict(theta), dict.fromkeys(theta, 0.0), dict.fromkeys(theta, 0.0)
        for t in range(1, steps + 1):
            loss = F.cross_entropy(functional_call(model, fast, (x_spt,)), y_spt)
            gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=order == 2)
            for name, g in zip(list(fast), gradients, strict=True):
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g**2
                moved = v[name] > 0  # elsewhere the root has no derivative
                root = torch.where(moved, (v[name] / (1 - 0.999**t)).where(moved, 1.0).sqrt(), 0.0)
                direction = m[name] / (1 - 0.9**t) / (root + 1e-8)
                fast[name] = fast[name] - rate * direction
        losses.append(F.cross_entropy(functional_call(model, fast, (x_qry,)), y_qry))
    mean = torch.stack(losses).mean()
    return mean.detach(), list(torch.autograd.grad(mean, list(theta.values())))


@pytest.mark.parametrize("order", [1, 2])
def test_inner_adam(order: int) -> None:
    expected, theirs = adam_oracle(order, 0.01, 3)
    learner = MAML(net(), inner_lr=0.01, inner_steps=3, order=order, inner_optimizer="adam")
    loss = learner(episodes()).loss
    ours = torch.autograd.grad(loss, list(learner.model.parameters()))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-9, atol=0)
    for actual, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("engine", ["batched", "loop"])
def test_inner_adam_takes_the_steps_of_torch(engine: str) -> None:
    x_spt, y_spt, _, _ = episodes()
    learner = MAML(net(), inner_lr=0.01, inner_steps=5, inner_optimizer="adam")
    with use_engine(engine):
        fast = learner.adapt(x_spt, y_spt)
    for task in range(len(x_spt)):
        model = torch.func.replace_all_batch_norm_modules_(net()).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x_spt[task]), y_spt[task]).backward()
            optimizer.step()
        for name, weight in model.named_parameters():
            if not _is_bias_under_batch_norm(model, name):
                torch.testing.assert_close(fast[name][task], weight.detach(), rtol=1e-9, atol=1e-12)


def _is_bias_under_batch_norm(model: nn.Module, name: str) -> bool:
    """Whose gradient is rounding noise in PyTorch, which Adam makes as large as any, and 0 here."""
    owner, _, kind = name.rpartition(".")
    return kind == "bias" and isinstance(model.get_submodule(owner), nn.Conv2d)


def test_inner_adam_is_finite_where_gradients_vanish() -> None:
    """A convolution's bias before batch norm has a gradient of exactly zero on the fused path."""
    learner = MAML(net(), inner_lr=0.01, inner_steps=2, inner_optimizer="adam")
    learner(episodes()).loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in learner.model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inner_optimizer": "rmsprop"}, "inner_optimizer must be one of sgd, adam; got 'rmsprop'"),
        ({"learn_inner_lr": "per_task"}, "learn_inner_lr must be True, False or 'per_step', got 'per_task'"),
        ({"first_order_iterations": -1}, "first_order_iterations must be at least 0, got -1"),
        ({"multi_step_iterations": -2}, "multi_step_iterations must be at least 0, got -2"),
        ({"batch_norm": "per-step"}, "batch_norm must be one of 'batch', 'running', 'per_step', 'per_step_running'"),
        (
            {"adapted": ["1"], "batch_norm": "per_step"},
            "left to adapt: 1.weight, 1.bias have a value for every step",
        ),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAML(net(), inner_lr=0.1, **arguments)


def test_per_step_norms_need_norms() -> None:
    with pytest.raises(ValueError, match="per-step batch norm needs a layer with a scale or a shift"):
        MAML(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), inner_lr=0.1, batch_norm="per_step")

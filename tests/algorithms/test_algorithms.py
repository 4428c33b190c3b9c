"""Every algorithm beside MAML against a naive loop over the tasks, in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from oracles import module_loop_loss
from small import make_episodes
from small import two_blocks as net
from torch import Tensor, nn
from torch.func import functional_call

from maml_fast import Episodes, evaluate
from maml_fast.algorithms import ALGORITHMS, ANIL, BOIL, FOMAML, MetaSGD, ProtoNet, Reptile


def episodes(n_tasks: int = 3) -> Episodes:
    return make_episodes(n_tasks, n_support=10, n_query=10)


def meta_gradient(learner: nn.Module) -> tuple[Tensor, list[Tensor]]:
    loss = learner(episodes()).loss
    learner.zero_grad()
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in learner.model.parameters()]


def assert_close(actual, expected) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("fused", [True, False])
def test_fomaml(fused: bool) -> None:
    expected = module_loop_loss(net(), episodes(), 0.3, 2, order=1)
    loss, gradient = meta_gradient(FOMAML(net(), inner_lr=0.3, inner_steps=2, fused=fused))
    assert_close([loss, *gradient], [expected[0], *expected[1]])


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("algorithm", "adapted"), [(ANIL, ("9",)), (BOIL, ("0", "1", "4", "5"))], ids=["ANIL", "BOIL"])
def test_anil_and_boil(algorithm, adapted: tuple[str, ...], order: int) -> None:
    learner = algorithm(net(), inner_lr=0.3, inner_steps=2, order=order)
    assert {name.partition(".")[0] for name in learner.adapted} == set(adapted)
    rates = {n: 0.3 if n.partition(".")[0] in adapted else 0.0 for n, _ in learner.model.named_parameters()}
    expected = loop_with_rates(net(), rates, 2, order)
    loss, gradient = meta_gradient(learner)
    assert_close([loss, *gradient], [expected[0], *expected[1]])


@pytest.mark.parametrize("order", [1, 2])
def test_meta_sgd(order: int) -> None:
    learner = MetaSGD(net(), inner_lr=0.2, inner_steps=2, order=order)
    with torch.no_grad():
        for rate in learner.inner_lr.parameters():
            rate.add_(0.1 * torch.rand_like(rate))
    rates = {n: learner.inner_lr.rate_of(n).detach().clone().requires_grad_() for n, _ in net().named_parameters()}
    expected = loop_with_rates(net(), rates, 2, order)
    loss, gradient = meta_gradient(learner)
    assert_close([loss, *gradient], [expected[0], *expected[1]])
    assert_close([learner.inner_lr.rate_of(name).grad for name in rates], expected[2])
    assert all(learner.inner_lr.rate_of(name).shape == p.shape for name, p in learner.model.named_parameters())


def loop_with_rates(model: nn.Module, rates: dict, steps: int, order: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Loss, and gradients for the parameters and for such rates as are tensors, one task after another."""
    model = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(model)).train()
    theta = dict(model.named_parameters())
    losses = []
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes(), strict=True):
        weights = dict(theta)
        for _ in range(steps):
            loss = F.cross_entropy(functional_call(model, weights, (x_spt,)), y_spt)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=order == 2)
            pairs = zip(weights.items(), gradients, strict=True)
            weights = {name: weight - rates[name] * gradient for (name, weight), gradient in pairs}
        losses.append(F.cross_entropy(functional_call(model, weights, (x_qry,)), y_qry))
    mean = torch.stack(losses).mean()
    learned = [rate for rate in rates.values() if isinstance(rate, Tensor)]
    gradients = torch.autograd.grad(mean, [*theta.values(), *learned])
    return mean.detach(), list(gradients[: len(theta)]), list(gradients[len(theta) :])


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_protonet(distance: str) -> None:
    model = torch.func.replace_all_batch_norm_modules_(net(None)).train()
    losses, right = [], 0
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes(), strict=True):
        embedded = model(torch.cat([x_spt, x_qry]))
        support, queries = embedded[:10], embedded[10:]
        prototypes = torch.stack([support[y_spt == label].mean(dim=0) for label in range(5)])
        if distance == "euclidean":
            logits = torch.stack([-((queries - prototype) ** 2).sum(dim=1) for prototype in prototypes], dim=1)
        else:
            logits = torch.stack([F.cosine_similarity(queries, p[None]) - 1 for p in prototypes], dim=1)
        losses.append(F.cross_entropy(logits, y_qry))
        right += int((logits.argmax(dim=1) == y_qry).sum())
    expected = torch.stack(losses).mean()
    gradient = torch.autograd.grad(expected, list(model.parameters()))

    learner = ProtoNet(net(None), distance=distance)
    loss, actual = meta_gradient(learner)
    assert_close([loss, *actual], [expected.detach(), *gradient])
    assert float(learner(episodes()).query_accuracy) == pytest.approx(right / 30)
    x_spt, y_spt, x_qry, y_qry = episodes()
    logits = learner.predict(learner.adapt(x_spt, y_spt), x_qry)
    assert logits.shape == (3, 10, 5)
    torch.testing.assert_close(F.cross_entropy(logits.flatten(0, 1), y_qry.flatten()), expected)


def test_protonet_trains_on_more_classes_than_it_is_tested_on() -> None:
    wide = make_episodes(2, n_support=12, n_query=5)._replace(y_spt=torch.arange(12).expand(2, -1))
    learner = ProtoNet(net(None))
    learner(wide).loss.backward()
    assert learner.predict(learner.adapt(wide.x_spt, wide.y_spt), wide.x_qry).shape == (2, 5, 12)
    assert evaluate(learner, [episodes()], 3).inner_steps == 0


def test_protonet_names_a_class_without_support() -> None:
    bad = episodes()._replace(y_spt=torch.tensor([0, 0, 0, 0, 0, 2, 2, 2, 2, 2]).expand(3, -1))
    with pytest.raises(ValueError, match="class 1 of task 0 has no support image"):
        ProtoNet(net(None))(bad)
    far = bad._replace(y_spt=torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 10**9]).expand(3, -1))
    with pytest.raises(ValueError, match="class 9 of task 0 has no support image"):  # before any memory is taken
        ProtoNet(net(None))(far)
    with pytest.raises(ValueError, match="distance must be one of euclidean, cosine; got 'manhattan'"):
        ProtoNet(net(None), distance="manhattan")


PREDICTIONS = {
    "no mapping": (lambda fast, x: ([fast], x), TypeError, "fast must be a mapping of x_spt and y_spt, as adapt"),
    "other mapping": (lambda fast, x: ({"x": x}, x), TypeError, "fast must be a mapping of x_spt and y_spt"),
    "float labels": (lambda fast, x: ({**fast, "y_spt": fast["y_spt"].double()}, x), TypeError, "y_spt.*float64"),
    "label below 0": (lambda fast, x: ({**fast, "y_spt": fast["y_spt"] - 1}, x), ValueError, "y_spt holds label -1"),
    "tasks": (lambda fast, x: (fast, x[:2]), ValueError, r"x_qry must be images \[3, M, 1.*got \[2, 10"),
    "one task": (lambda fast, x: (fast, x[0]), ValueError, "x_qry must be images"),
    "array": (lambda fast, x: (fast, x.numpy()), TypeError, "x_qry must be a torch tensor"),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_protonet_predicts_from_what_it_adapted(case: str) -> None:
    spoil, error, message = PREDICTIONS[case]
    learner = ProtoNet(net(None))
    with pytest.raises(error, match=message):
        learner.predict(*spoil(learner.adapt(*episodes()[:2]), episodes().x_qry))


def test_reptile_predicts_from_what_it_adapted() -> None:
    learner = Reptile(net())
    with pytest.raises(TypeError, match="fast must map parameter names to tensors, as adapt"):
        learner.predict([], episodes().x_qry)
    with pytest.raises(ValueError, match="fast holds 'x', which is not a parameter of the model"):
        learner.predict({"x": torch.ones(3)}, episodes().x_qry)


def reptile_loop(model: nn.Module, steps: int, batches: list[Tensor]) -> list[Tensor]:
    """θ - mean φ: every task trains by an Adam of its own, in TensorFlow's form, from fresh memory."""
    model = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(model)).train()
    theta = [parameter.detach().clone() for parameter in model.parameters()]
    ahead = [torch.zeros_like(parameter) for parameter in theta]
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes(), strict=True):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), theta, strict=True):
                parameter.copy_(value)
        squares = [torch.zeros_like(value) for value in theta]
        x, y = torch.cat([x_spt, x_qry]), torch.cat([y_spt, y_qry])
        for step in range(steps):
            loss = F.cross_entropy(model(x[batches[step]]), y[batches[step]])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            rate = 0.01 * (1 - 0.999 ** (step + 1)) ** 0.5
            with torch.no_grad():
                for parameter, square, gradient in zip(model.parameters(), squares, gradients, strict=True):
                    square.mul_(0.999).add_(0.001 * gradient**2)
                    parameter.sub_(rate * gradient / (square**0.5 + 1e-8))
        for sum_, parameter, value in zip(ahead, model.parameters(), theta, strict=True):
            sum_ += (value - parameter.detach()) / 3
    return ahead


def test_reptile() -> None:
    learner = Reptile(net(), inner_lr=0.01, inner_steps=4, inner_batch=8)
    torch.manual_seed(5)
    batches = list(torch.cat([torch.randperm(20), torch.randperm(20)]).split(8))[:4]
    torch.manual_seed(5)
    _, actual = meta_gradient(learner)
    for (name, _), a, e in zip(net().named_parameters(), actual, reptile_loop(net(), 4, batches), strict=True):
        if name not in ("0.bias", "4.bias"):  # which batch norm takes out: their gradients are rounding
            torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-9, msg=name)


def test_reptile_moves_to_where_training_leads() -> None:
    torch.manual_seed(5)
    learner = Reptile(net(), inner_lr=0.01, inner_steps=3, inner_batch=20)
    before = [p.detach().clone() for p in learner.model.parameters()]
    _, ahead = meta_gradient(learner)
    learner.make_optimizer(0.5).step()
    for parameter, value, step in zip(learner.model.parameters(), before, ahead, strict=True):
        torch.testing.assert_close(parameter.detach(), value - 0.5 * step)


def test_reptile_remembers_what_its_adam_saw_and_evaluation_does_not_add_to_it() -> None:
    learner = Reptile(net(), inner_lr=0.01, inner_steps=3)
    learner(episodes()).loss.backward()
    remembered = {name: value.clone() for name, value in learner.adam.state_dict().items()}
    assert int(remembered["steps"]) == 3
    assert sum(float(value.sum()) for value in remembered.values()) > 3
    result = evaluate(learner, [episodes()], 3, inner_steps=4)
    assert len(result.accuracies) == 5
    learner.adapt(episodes().x_spt, episodes().y_spt)
    assert all(torch.equal(value, remembered[name]) for name, value in learner.adam.state_dict().items())


def test_reptile_refuses_what_it_can_not_do() -> None:
    with pytest.raises(ValueError, match="inner_batch must be at least 1, got 0"):
        Reptile(net(), inner_batch=0)
    with pytest.raises(ValueError, match="needs at least 1 inner step"):
        Reptile(net(), inner_steps=0)(episodes())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_episodes_are_checked(name: str) -> None:
    from maml_fast.train import TrainConfig

    algorithm = ALGORITHMS[name]
    learner = algorithm.make(net(None if algorithm.embeds else 5), TrainConfig(algorithm=name).learner_settings)
    nan = episodes()._replace(x_qry=torch.full_like(episodes().x_qry, torch.nan))
    for bad, message in (
        (nan, "x_qry"),
        (episodes()._replace(y_spt=episodes().y_spt[:, :3]), "support"),
        (episodes().to(torch.float32), "x_spt is torch.float32, the model torch.float64"),
        (episodes()._replace(y_qry=torch.full((3, 10), 77)), "77"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            learner(bad)

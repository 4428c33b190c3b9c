"""Where a task's classifier starts, against a naive loop over the tasks in double precision; any number of classes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small import conv_net, make_episodes, two_blocks
from torch import Tensor, nn
from torch.func import functional_call

import maml_fast as mf
from maml_fast import MAML
from maml_fast.algorithms import ANIL, BOIL, MetaSGD, ProtoNet, Reptile
from maml_fast.inner_loop._heads import prototypes

WEIGHT, BIAS = "9.weight", "9.bias"  # of two_blocks
ENGINES = {"zero": ("native", "batched", "loop"), "tied": ("native", "batched", "loop"), "proto": ("batched", "loop")}


def episodes(n_tasks: int = 3) -> mf.Episodes:
    return make_episodes(n_tasks, n_support=10, n_query=10)


def one_against_the_rest(logits: Tensor, labels: Tensor) -> Tensor:
    """Not blind to what is added to all logits alike, as cross-entropy is."""
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))


def naive(head: str, steps: int, order: int, loss_fn=F.cross_entropy, row=None) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and gradients by name."""
    model = torch.func.replace_all_batch_norm_modules_(two_blocks()).train()
    embed = copy.deepcopy(model)
    embed[9] = nn.Identity()
    theta = dict(model.named_parameters())
    row = row or {WEIGHT: theta[WEIGHT][0].detach().requires_grad_(), BIAS: theta[BIAS][:1].detach().requires_grad_()}
    total = 0.0
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes(), strict=True):
        weights = dict(theta)
        if head == "zero":
            weights |= {name: torch.zeros_like(theta[name]).requires_grad_() for name in (WEIGHT, BIAS)}
        elif head == "tied":
            weights |= {name: row[name].expand(theta[name].shape) for name in (WEIGHT, BIAS)}
        else:
            body = {name: weight for name, weight in theta.items() if name not in (WEIGHT, BIAS)}
            embedded = functional_call(embed, body, (x_spt,))
            means = torch.stack([embedded[y_spt == label].mean(0) for label in range(5)])
            weights = {name: weight.view_as(weight) for name, weight in body.items()}  # which the means don't depend on
            weights |= {WEIGHT: 2 * means, BIAS: -(means**2).sum(1)}
        for _ in range(steps):
            value = loss_fn(functional_call(model, weights, (x_spt,)), y_spt)
            gradients = torch.autograd.grad(value, list(weights.values()), create_graph=order == 2, retain_graph=True)
            weights = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
        total = total + loss_fn(functional_call(model, weights, (x_qry,)), y_qry) / 3
    body = {name: weight for name, weight in theta.items() if name not in (WEIGHT, BIAS)}
    learned = {**body, **({f"row.{name}": each for name, each in row.items()} if head == "tied" else {})}
    gradients = torch.autograd.grad(total, list(learned.values()))
    return total.detach(), dict(zip(learned, gradients, strict=True))


def assert_follows(maml: MAML, expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    loss = maml(episodes()).loss
    maml.zero_grad()
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected[0], rtol=1e-10, atol=1e-12)
    for name, gradient in expected[1].items():
        if name.startswith("row."):
            found = getattr(maml.tied_row, name.rpartition(".")[2]).grad
        else:
            found = maml.model.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("head", "engine"), [(head, engine) for head, some in ENGINES.items() for engine in some])
def test_equals_the_plain_loop(head: str, engine: str, order: int) -> None:
    if engine == "native" and mf.backend().name != "native":
        pytest.skip("no native kernels")
    maml = MAML(two_blocks(), inner_lr=0.1, inner_steps=3, order=order, head=head)
    with mf.use_engine(engine):
        assert_follows(maml, naive(head, 3, order))


@pytest.mark.parametrize("order", [1, 2])
def test_the_tied_row_is_learned(order: int) -> None:
    maml = MAML(two_blocks(), inner_lr=0.1, inner_steps=2, order=order, head="tied", loss_fn=one_against_the_rest)
    expected = naive("tied", 2, order, one_against_the_rest)
    assert all(expected[1][f"row.{name}"].norm() > 1e-3 for name in (WEIGHT, BIAS))
    assert_follows(maml, expected)


@pytest.mark.parametrize("engine", [None, "batched"])
def test_a_tied_row_that_was_moved_is_seen(engine: str | None) -> None:
    """The classifier's rows are made of it anew at every call, whichever engine takes them."""
    maml = MAML(
        two_blocks(),
        inner_lr=0.1,
        inner_steps=2,
        head="tied",
        loss_fn=F.cross_entropy if engine is None else one_against_the_rest,
    )
    for _ in range(3):
        maml(episodes())
        with torch.no_grad():
            maml.tied_row.bias += 1.0
            maml.model[0].weight *= 1.1
    fresh = copy.deepcopy(maml)
    assert maml(episodes()).loss == fresh(episodes()).loss
    fast = maml.adapt(*episodes()[:2], inner_steps=0)
    torch.testing.assert_close(fast[BIAS], maml.tied_row.bias.expand(3, 5))


@pytest.mark.parametrize("head", ["zero", "tied", "proto"])
def test_steps_in_segments_and_tasks_in_chunks_give_the_same(head: str) -> None:
    whole, parts = (
        MAML(two_blocks(), inner_lr=0.1, inner_steps=6, head=head, **kept)
        for kept in ({}, {"inner_memory": 2, "task_chunk": 2})
    )
    gradients = []
    with mf.use_engine("batched"):
        for maml in (whole, parts):
            maml(episodes()).loss.backward()
            gradients.append([p.grad for name, p in maml.named_parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_prototypes_and_dropout_in_segments() -> None:
    """What the support images draw on the way to their prototypes is drawn again when steps are taken again."""
    maml = MAML(conv_net(dropout=0.5), inner_lr=0.01, inner_steps=6, head="proto", inner_memory=2)
    maml(episodes()).loss.backward()
    assert maml.model[0].weight.grad.norm() > 0


def test_prototypes_before_the_first_step_are_those_of_a_prototypical_network() -> None:
    model = two_blocks()
    fast = MAML(model, inner_lr=0.1, inner_steps=1, head="proto").adapt(*episodes()[:2], inner_steps=0)
    embedding = copy.deepcopy(model)
    embedding[9] = nn.Identity()
    x = episodes().x_spt
    ours = MAML(model, inner_lr=0.1).predict(fast, x).log_softmax(2)
    torch.func.replace_all_batch_norm_modules_(embedding)
    support = torch.stack([embedding(each) for each in x])
    means = prototypes(support, episodes().y_spt, 5)
    theirs = -(support[:, :, None] - means[:, None]).square().sum(3)
    torch.testing.assert_close(ours, theirs.log_softmax(2))


@pytest.mark.parametrize("head", ["learned", "zero", "tied", "proto"])
@pytest.mark.parametrize("n_classes", [2, 9])
def test_any_number_of_classes(head: str, n_classes: int) -> None:
    maml = MAML(two_blocks(), inner_lr=0.1, inner_steps=2, head=head)
    served = maml.for_classes(n_classes)
    x, y = torch.rand(2, 2 * n_classes, 1, 10, 10, dtype=torch.float64), torch.arange(n_classes).repeat(2).expand(2, -1)
    fast = served.adapt(x, y)
    assert served.predict(fast, x).shape == (2, 2 * n_classes, n_classes)
    assert served(mf.Episodes(x, y, x, y)).query_accuracy > 1 / n_classes
    first = served.adapt(x, y, inner_steps=0)[WEIGHT]
    own = maml.model[9].weight
    in_turn = torch.stack([own[i % 5] for i in range(n_classes)])
    wanted = {"learned": in_turn, "zero": torch.zeros(n_classes, 24), "tied": own[:1].expand(n_classes, 24)}
    if head in wanted:
        torch.testing.assert_close(first, wanted[head].to(first.dtype).expand_as(first))
    assert maml.model[9].weight.shape == (5, 24)
    assert maml.for_classes(5) is maml


@pytest.mark.parametrize("learn", [True, "per_step"])
def test_rates_of_single_weights_are_taken_in_turn_too(learn: bool | str) -> None:
    maml = MAML(two_blocks(), inner_lr=lambda p: torch.rand_like(p), inner_steps=2, learn_inner_lr=learn, head="zero")
    served = maml.for_classes(3)
    steps = () if learn is True else (2,)
    for name in (WEIGHT, BIAS):
        (own, its) = (dict(each.inner_lr.named_parameters())[name.replace(".", "/")] for each in (maml, served))
        assert its.shape == (*steps, 3, *own.shape[len(steps) + 1 :])
        torch.testing.assert_close(its, own.narrow(len(steps), 0, 3))
    x, y = torch.rand(2, 6, 1, 10, 10, dtype=torch.float64), torch.arange(3).repeat(2).expand(2, -1)
    assert served(mf.Episodes(x, y, x, y)).loss.isfinite()


@pytest.mark.parametrize("make", [ANIL, MetaSGD, Reptile])
def test_other_algorithms_serve_any_number(make) -> None:
    learner = make(two_blocks(), inner_lr=0.01, inner_steps=2)
    x, y = torch.rand(1, 6, 1, 10, 10, dtype=torch.float64), torch.arange(3).repeat(2)[None]
    served = learner.for_classes(3)
    assert served.predict(served.adapt(x, y), x).shape == (1, 6, 3)


def test_a_prototypical_network_serves_any_number_as_it_is() -> None:
    learner = ProtoNet(two_blocks(outputs=None))
    assert learner.for_classes(7) is learner


class Squashed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = two_blocks()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).log_softmax(1)


class Backwards(nn.Module):
    """Registers its classifier first."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(20, 5).double()
        self.hidden = nn.Linear(100, 20).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.hidden(x.flatten(1)).relu())


def without_bias() -> nn.Module:
    model = two_blocks()
    model[9] = nn.Linear(24, 5, bias=False).double()
    return model


def conv_last() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 5, 10), nn.Flatten()).double()


@pytest.mark.parametrize(
    ("make", "head", "message"),
    [
        (
            lambda **k: MAML(two_blocks(), inner_lr=0.1, **k),
            "one",
            "head must be one of learned, zero, tied, proto; got 'one'",
        ),
        (
            lambda **k: MAML(conv_last(), inner_lr=0.1, **k),
            "zero",
            "ends in an nn.Linear .*last module .* is 0, a Conv2d",
        ),
        (
            lambda **k: MAML(without_bias(), inner_lr=0.1, **k),
            "proto",
            "needs a classifier with a bias, and 9.weight has none",
        ),
        (lambda **k: BOIL(two_blocks(), inner_lr=0.1, **k), "zero", "a classifier that adapts, but 9.weight does not"),
        (
            lambda **k: MAML(two_blocks(), inner_lr=0.1, adapted=["0"], **k),
            "tied",
            "a classifier that adapts, but 9.weight does",
        ),
    ],
)
def test_what_can_not_be_is_refused(make, head: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(head=head)


@pytest.mark.parametrize("engine", ["batched", "loop"])
def test_what_comes_after_the_classifier_is_refused(engine: str) -> None:
    with mf.use_engine(engine), pytest.raises(ValueError, match="something comes after it; leave that to loss_fn"):
        MAML(Squashed(), inner_lr=0.1, head="proto")(episodes())


def test_a_classifier_registered_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"took hidden.weight, hidden.bias .* computed last with classifier.bias"):
        MAML(Backwards(), inner_lr=0.1, head="zero")(episodes())


def test_a_classifier_frozen_later_is_refused() -> None:
    maml = MAML(two_blocks(), inner_lr=0.1, head="zero")
    maml.model[9].weight.requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"needs a classifier that adapts, but 9.weight is frozen now"):
        maml(episodes())


def test_rows_that_do_not_adapt_serve_their_own_classes_alone() -> None:
    with pytest.raises(ValueError, match=r"9.weight does not adapt: its 5 learned rows .* not for 3; let the"):
        BOIL(two_blocks(), inner_lr=0.1).for_classes(3)
    assert BOIL(two_blocks(), inner_lr=0.1).for_classes(5)


def test_a_class_without_a_support_image_is_named() -> None:
    x_spt, y_spt, x_qry, y_qry = episodes()
    with pytest.raises(ValueError, match="class 4 of task 0 has no support image"):
        MAML(two_blocks(), inner_lr=0.1, head="proto")(mf.Episodes(x_spt, y_spt.clamp(max=3), x_qry, y_qry))

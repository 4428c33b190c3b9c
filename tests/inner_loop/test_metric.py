"""An accuracy means the share of right predictions, or there is none; what is ignored does not count."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import make_episodes, two_blocks
from torch import Tensor, nn

from maml_fast import MAML, Episodes, evaluate, use_engine
from maml_fast.inner_loop._metric import IGNORED


def linear(outputs: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(100, outputs)).double()


def binary(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype))


def test_one_logit_has_no_accuracy_of_its_own() -> None:
    episodes = make_episodes(n_tasks=4, n_query=20)
    episodes = episodes._replace(y_spt=episodes.y_spt % 2, y_qry=episodes.y_qry % 2)
    maml = MAML(linear(1), inner_lr=0.1, inner_steps=2, loss_fn=binary)
    assert maml(episodes).query_accuracy is None
    assert evaluate(maml, [episodes], 4).accuracy is None
    maml.metric = lambda logits, targets: (logits[:, 0] > 0) == targets.bool()
    logits = maml.predict(maml.adapt(episodes.x_spt, episodes.y_spt), episodes.x_qry)[..., 0]
    right = ((logits > 0) == episodes.y_qry.bool()).double().mean().item()
    told = maml(episodes).query_accuracy
    assert told is not None
    assert told.item() == pytest.approx(right)
    assert evaluate(maml, [episodes], 4).accuracy == pytest.approx(right)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda logits, y: F.poisson_nll_loss(logits, y.double()[:, None].expand_as(logits)),  # counts
        lambda logits, y: F.cross_entropy(logits, y),  # who knows
        lambda logits, y: F.mse_loss(logits, F.one_hot(y, 5).double()),
    ],
)
def test_a_loss_of_your_own_has_none_unless_you_say_so(loss_fn: Any) -> None:
    maml = MAML(linear(), inner_lr=0.01, inner_steps=1, loss_fn=loss_fn)
    assert maml(make_episodes()).query_accuracy is None
    maml.metric = "accuracy"
    assert maml(make_episodes()).query_accuracy is not None


@pytest.mark.parametrize(
    ("loss_fn", "ignored"),
    [
        (F.cross_entropy, -100),
        (nn.CrossEntropyLoss(), -100),
        (nn.CrossEntropyLoss(ignore_index=3, label_smoothing=0.1), 3),
        (partial(F.cross_entropy, label_smoothing=0.1), -100),
        (partial(F.cross_entropy, ignore_index=2), 2),
    ],
)
@pytest.mark.parametrize("engine", ["batched", "loop"])
def test_every_form_of_cross_entropy_counts_classes(loss_fn: Any, ignored: int, engine: str) -> None:
    maml, episodes = MAML(linear(), inner_lr=0.1, inner_steps=2, loss_fn=loss_fn), make_episodes()
    labels = episodes.y_qry.clone()
    labels[:, ::4] = ignored
    episodes = episodes._replace(y_qry=labels)
    predicted = maml.predict(maml.adapt(episodes.x_spt, episodes.y_spt), episodes.x_qry).argmax(dim=-1)
    counts = labels != ignored
    with use_engine(engine):
        out = maml(episodes)
    assert out.query_accuracy is not None
    assert out.query_accuracy.item() == pytest.approx(
        ((predicted == labels) & counts).sum().item() / counts.sum().item()
    )


def test_sequences_are_judged_along_the_classes() -> None:
    """Logits [N, classes, length], as cross-entropy has them, of as many classes as places."""
    torch.manual_seed(0)
    net = nn.Conv1d(3, 4, 1).double()
    x, y = torch.rand(3, 5, 3, 4, dtype=torch.float64), torch.randint(4, (3, 5, 4))
    maml = MAML(net, inner_lr=0.1, inner_steps=1)
    out = maml(Episodes(x, y, x, y))
    predicted = maml.predict(maml.adapt(x, y), x).argmax(dim=2)
    assert out.query_accuracy is not None
    assert out.query_accuracy.item() == pytest.approx((predicted == y).double().mean().item())


def loop_loss(model: nn.Module, episodes: Episodes, rate: float, steps: int, order: int) -> Tensor:
    names = [name for name, _ in model.named_parameters()]
    losses = []
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes, strict=True):
        weights = list(model.parameters())
        for _ in range(steps):
            logits = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), x_spt)
            found = torch.autograd.grad(F.cross_entropy(logits, y_spt), weights, create_graph=order == 2)
            weights = [weight - rate * each for weight, each in zip(weights, found, strict=True)]
        logits = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), x_qry)
        losses.append(F.cross_entropy(logits, y_qry))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("adapt", [None, "head"])
@pytest.mark.parametrize("engine", [pytest.param("native", marks=pytest.mark.native), "batched", "loop"])
def test_ignored_labels_are_cross_entropys_own(engine: str, adapt: str | None, order: int) -> None:
    model, episodes = two_blocks(), make_episodes()
    y_spt, y_qry = episodes.y_spt.clone(), episodes.y_qry.clone()
    y_spt[:, 1] = IGNORED
    y_qry[0, :4] = y_qry[2, 3] = IGNORED
    episodes = episodes._replace(y_spt=y_spt, y_qry=y_qry)
    maml = MAML(model, inner_lr=0.3, inner_steps=2, order=order, adapted=adapt)
    with use_engine(engine):
        out = maml(episodes)
        found = torch.autograd.grad(out.loss, list(model.parameters()))
    if adapt is None:
        wanted = loop_loss(model, episodes, 0.3, 2, order)
        torch.testing.assert_close(out.loss, wanted, rtol=1e-11, atol=0)
        for one, other in zip(found, torch.autograd.grad(wanted, list(model.parameters())), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)
    predicted = maml.predict(maml.adapt(episodes.x_spt, y_spt), episodes.x_qry).argmax(dim=-1)
    assert out.query_accuracy is not None
    assert out.query_accuracy.item() == pytest.approx((predicted == y_qry).sum().item() / 25)
    with torch.no_grad(), use_engine(engine):
        results = maml.task_results(episodes)
    assert results.predictions is not None
    assert results.predictions.tolist() == [6, 10, 9]


@pytest.mark.parametrize("engine", [pytest.param("native", marks=pytest.mark.native), "batched", "loop"])
def test_a_query_set_that_is_ignored_has_no_loss(engine: str) -> None:
    episodes = make_episodes()
    labels = episodes.y_qry.clone()
    labels[1] = IGNORED
    with use_engine(engine), torch.no_grad():
        results = MAML(two_blocks(), inner_lr=0.3, inner_steps=1).task_results(episodes._replace(y_qry=labels))
    assert results.losses.isnan().tolist() == [[False, True, False]]
    assert results.accuracies is not None
    assert results.accuracies.isnan().tolist() == [[False, True, False]]


def test_other_labels_below_zero_are_an_error() -> None:
    episodes = make_episodes()
    with pytest.raises(ValueError, match="y_qry holds label -1; labels are class numbers from 0"):
        MAML(two_blocks(), inner_lr=0.3, inner_steps=1)(episodes._replace(y_qry=episodes.y_qry - 1))


def test_bad_metrics() -> None:
    with pytest.raises(ValueError, match=r"metric must be 'auto', 'accuracy', None, or a function.*got 'precision'"):
        MAML(linear(), metric="precision")
    maml = MAML(
        linear(),
        inner_lr=0.1,
        inner_steps=1,
        metric=lambda logits, targets: (logits.argmax(1) == targets).double().mean(),
    )
    with pytest.raises(TypeError, match=r"which predictions are right, in a tensor of torch.bool; it returned torch.f"):
        maml(make_episodes())
    x, y = torch.rand(2, 5, 1, dtype=torch.float64), torch.rand(2, 5, 1, dtype=torch.float64)
    maml = MAML(nn.Linear(1, 1).double(), inner_lr=0.1, inner_steps=1, loss_fn=F.mse_loss, metric="accuracy")
    with pytest.raises(ValueError, match=r"metric='accuracy' takes logits .* whole labels"):
        maml((x, y, x, y))


@pytest.mark.native
def test_nothing_is_judged_where_that_is_asked_for() -> None:
    maml = MAML(two_blocks(), inner_lr=0.3, inner_steps=1, metric=None)
    assert maml.engine_for(make_episodes()) == "native"
    assert maml(make_episodes(), per_step=True).query_accuracies is None

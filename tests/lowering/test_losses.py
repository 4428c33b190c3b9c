"""Losses as programs: PyTorch's own, their modules and what people write, against the plain loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from native_against_loop import CLASSES, assert_native_is_right, episodes_of
from torch import Tensor, nn

from maml_fast import MAML, Episodes, use_engine

pytestmark = pytest.mark.native

Loss = Callable[[Tensor, Tensor], Tensor]


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    loss = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-loss)) ** 2 * loss).mean()


def by_index(logits: Tensor, labels: Tensor) -> Tensor:
    return -F.log_softmax(logits, dim=1)[torch.arange(len(labels)), labels].mean()


def by_gather(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(1, labels[:, None]).sum()


def weighted(**options: object) -> Loss:
    return nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), **options)


OF_LABELS: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "its module": nn.CrossEntropyLoss(),
    "smoothed": partial(F.cross_entropy, label_smoothing=0.1),
    "weighted": weighted(),
    "weighted and smoothed": weighted(label_smoothing=0.2),
    "summed": nn.CrossEntropyLoss(reduction="sum"),
    "nll_loss": lambda logits, labels: F.nll_loss(F.log_softmax(logits, 1), labels),
    "focal": focal,
    "by index": by_index,
    "by gather": by_gather,
    "labels as numbers": lambda logits, labels: (logits[:, 0] - labels.to(logits.dtype)).square().mean(),
    "half": lambda logits, labels: 0.5 * F.cross_entropy(logits, labels) + 0.01 * logits.square().mean(),
}
OF_VALUES: dict[str, Loss] = {
    "mse_loss": F.mse_loss,
    "summed": nn.MSELoss(reduction="sum"),
    "l1_loss": F.l1_loss,
    "huber_loss": partial(F.huber_loss, delta=0.7),
    "smooth_l1_loss": nn.SmoothL1Loss(beta=0.5),
    "binary_cross_entropy_with_logits": lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid()),
    "with a weight of positives": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 0.5], dtype=torch.float64)),
    "by hand": lambda x, y: ((x - y) ** 2).mean() + (x - y).abs().max(),
}


def net(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, outputs)).double()


@pytest.mark.parametrize("name", OF_LABELS)
def test_losses_of_labels(name: str) -> None:
    assert_native_is_right(net(CLASSES), episodes_of(4), loss_fn=OF_LABELS[name])


@pytest.mark.parametrize("name", [name for name in OF_VALUES if name != "by hand"])
def test_losses_of_values(name: str) -> None:
    assert_native_is_right(net(2), episodes_of(4, targets=(2,)), loss_fn=OF_VALUES[name])


@pytest.mark.parametrize("name", ["cross_entropy", "smoothed", "weighted"])
def test_labels_that_do_not_count(name: str) -> None:
    episodes = episodes_of(4)
    episodes.y_spt[0, 1] = episodes.y_qry[1, :2] = -100
    assert_native_is_right(net(CLASSES), episodes, loss_fn=OF_LABELS[name])


@pytest.mark.parametrize("ignored", [-1, 2, CLASSES + 4])
def test_another_label_that_does_not_count(ignored: int) -> None:
    """Which the kernels do not know: losses and accuracies are the plain loop's, and no error names it."""
    model, episodes = net(CLASSES), episodes_of(4)
    episodes.y_spt[0, 1] = episodes.y_qry[1, :2] = ignored
    maml = MAML(model, inner_lr=0.1, inner_steps=2, loss_fn=nn.CrossEntropyLoss(ignore_index=ignored))
    assert maml.engine_for(episodes) != "native"
    found = maml(episodes)
    with use_engine("loop"):
        wanted = maml(episodes)
    assert found.loss.item() == pytest.approx(wanted.loss.item())
    assert torch.equal(found.query_accuracy, wanted.query_accuracy)


@pytest.mark.parametrize("loss_fn", [F.cross_entropy, by_gather], ids=["cross_entropy", "by_gather"])
def test_a_label_out_of_range_is_named(loss_fn: Loss) -> None:
    model, episodes = net(CLASSES), episodes_of(4)
    maml = MAML(model, inner_lr=0.1, inner_steps=1, loss_fn=loss_fn)
    with use_engine("native"):
        maml(episodes)
        episodes.y_qry[1, 2] = CLASSES
        with pytest.raises(ValueError, match=f"y_qry holds the label {CLASSES}, but the model has {CLASSES} outputs"):
            maml(episodes)


def test_accuracies_are_those_of_the_loop() -> None:
    episodes = episodes_of(4)
    maml = MAML(net(CLASSES), inner_lr=0.1, inner_steps=2, loss_fn=focal, metric="accuracy")
    found = []
    for engine in ("native", "loop"):
        with use_engine(engine):
            found.append(maml(episodes, per_step=True).query_accuracies)
    assert torch.equal(*found)


def test_a_loss_without_native_form_runs_as_before() -> None:
    def worst(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none").max()

    model, episodes = net(CLASSES), episodes_of(4)
    maml = MAML(model, inner_lr=0.1, inner_steps=1, loss_fn=worst)
    with use_engine("native"), pytest.raises(RuntimeError, match="max has no form for all tasks at once"):
        maml(episodes)
    assert maml(episodes).loss.isfinite()


def test_a_loss_that_changes_is_recorded_anew() -> None:
    class Scaled:
        factor = 1.0

        def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
            return self.factor * F.cross_entropy(logits, labels)

    loss_fn, episodes = Scaled(), episodes_of(4)
    maml = MAML(net(CLASSES), inner_lr=0.0, inner_steps=1, loss_fn=loss_fn)
    with use_engine("native"):
        before = maml(episodes).loss.item()
        loss_fn.factor = 3.0
        assert maml(episodes).loss.item() == pytest.approx(3 * before)


def test_a_weight_of_the_loss_that_is_replaced_counts() -> None:
    loss_fn, episodes = weighted(), episodes_of(4)
    maml = MAML(net(CLASSES), inner_lr=0.0, inner_steps=1, loss_fn=loss_fn)
    for weight in ([0.5, 1.0, 2.0], [3.0, 1.0, 1.0], [1.0, 1.0, 1.0]):
        loss_fn.weight = torch.tensor(weight, dtype=torch.float64)
        with use_engine("native"):
            found = maml(episodes).loss
        with use_engine("loop"):
            assert found.item() == pytest.approx(maml(episodes).loss.item())


def test_targets_of_another_shape_do_as_pytorch_says() -> None:
    episodes = episodes_of(4, targets=(2,))
    wide = Episodes(episodes.x_spt, episodes.y_spt, episodes.x_qry, episodes.y_qry[..., :1])
    with pytest.warns(UserWarning, match="different to the input size"):
        MAML(net(2), inner_lr=0.1, inner_steps=1, loss_fn=F.mse_loss)(wide)

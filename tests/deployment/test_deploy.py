"""A meta-learner as an ordinary module: it says what the learner says, of one image as of many, without maml_fast."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small import conv_net
from torch import Tensor, nn

import maml_fast as mf
from maml_fast import MAML, models
from maml_fast.algorithms import MAMLPlusPlus, MetaSGD, ProtoNet, Reptile
from maml_fast.nn import ConvBlock

torch.manual_seed(0)
X, QUERIES = torch.rand(12, 1, 16, 16), torch.rand(7, 1, 16, 16)
Y = {n: torch.arange(n).repeat(12 // n) for n in (2, 3, 4, 6)}


def conv4(n_way: int | None = 4, **options) -> nn.Module:
    return models.Conv4(n_way, hidden=6, image_size=16, **options)


class Own(nn.Module):
    """A user's class, with layers of both libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.block = ConvBlock(4, 6, relu_first=True, gamma=False)
        self.flat_norm = nn.BatchNorm1d(6 * 49)
        self.classifier = nn.Linear(6 * 49, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flat_norm(self.block(self.norm(self.first(x)).relu()).flatten(1)))


def image_norms() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(784, 4)]
    return nn.Sequential(*layers)


LEARNERS = {
    "Conv4": lambda: MAML(conv4(), inner_lr=0.4, inner_steps=2),
    "strided, zero": lambda: MAML(conv4(strided=True), inner_lr=0.4, inner_steps=2, head="zero"),
    "proto": lambda: MAML(conv4(), inner_lr=0.01, inner_steps=2, head="proto"),
    "fused": lambda: MAML(mf.fuse(conv4()), inner_lr=0.4, inner_steps=1),
    "own class": lambda: MAML(Own(), inner_lr=0.01, inner_steps=1),
    "group norm, dropout": lambda: MAML(image_norms(), inner_lr=0.1, inner_steps=1),
    "MLP": lambda: MAML(models.MLP((256, 32, 4)), inner_lr=0.1, inner_steps=2),
    "Meta-SGD": lambda: MetaSGD(conv4()),
    "MAML++": lambda: MAMLPlusPlus(conv4(), inner_steps=2),
    "MAML++, running": lambda: MAMLPlusPlus(conv4(), inner_steps=2, batch_norm="per_step_running"),
    "Reptile": lambda: Reptile(conv4()),
    "ProtoNet": lambda: ProtoNet(conv4(None)),
    "ProtoNet, cosine": lambda: ProtoNet(conv4(None), distance="cosine"),
}


@pytest.mark.parametrize("n_classes", [4, 6])
@pytest.mark.parametrize("name", LEARNERS)
def test_says_what_the_learner_says_and_of_one_image_as_of_many(name: str, n_classes: int) -> None:
    learner, y = LEARNERS[name](), Y[n_classes]
    before = copy.deepcopy(learner.state_dict())
    module = mf.deploy(learner, X, y)
    found = module(QUERIES)
    assert found.shape == (7, n_classes)
    torch.testing.assert_close(torch.cat([module(image[None]) for image in QUERIES]), found, rtol=1e-4, atol=1e-4)

    assert learner.training
    served = learner.for_classes(n_classes).eval()
    fast = served.adapt(X[None], y[None])
    wanted = served.predict_by_support(fast, X[None], QUERIES[None])[0]
    torch.testing.assert_close(found.softmax(1), wanted.softmax(1), rtol=1e-4, atol=1e-5)

    assert not module.training
    assert {type(part).__module__.partition(".")[0] for part in module.modules()} <= {
        "torch",
        __name__.partition(".")[0],
    }
    assert all(torch.equal(before[key], value) for key, value in learner.state_dict().items())
    assert {id(p) for p in module.parameters()}.isdisjoint(id(p) for p in learner.parameters())


def test_steps_of_its_own_and_running_statistics_of_the_models_own() -> None:
    model = conv_net().float()
    model[1].running_mean.uniform_()
    learner = MAML(model, inner_lr=0.1, inner_steps=1, batch_norm="running")
    x = torch.rand(10, 1, 10, 10)
    module = mf.deploy(learner, x, torch.arange(5).repeat(2), inner_steps=3)
    learner.eval()
    fast = learner.adapt(x[None], torch.arange(5).repeat(2)[None], inner_steps=3)
    torch.testing.assert_close(module(x), learner.predict(fast, x[None])[0])
    assert torch.equal(module[1].running_mean, model[1].running_mean)


def test_other_targets_than_classes() -> None:
    learner = MAML(
        nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)), inner_lr=0.1, inner_steps=2, loss_fn=F.mse_loss
    )
    x = torch.linspace(-1, 1, 8)[:, None]
    module = mf.deploy(learner, x, x.sin())
    fast = learner.adapt(x[None], x.sin()[None])
    torch.testing.assert_close(module(x), learner.predict(fast, x[None])[0])


def test_sequences() -> None:
    learner = MAML(models.LSTM(3, 5, 2), inner_lr=0.1, inner_steps=1, loss_fn=F.mse_loss)
    x, y = torch.rand(4, 6, 3), torch.rand(4, 6, 2)
    module = mf.deploy(learner, x, y)
    torch.testing.assert_close(module(x), learner.predict(learner.adapt(x[None], y[None]), x[None])[0])
    assert "maml_fast" not in {type(part).__module__.partition(".")[0] for part in module.modules()}


def test_names_of_the_networks_parameters_stay() -> None:
    names = [name for name, _ in mf.deploy(MAML(conv4(), inner_lr=0.1), X, Y[4]).named_parameters()]
    assert names == [name for name, _ in conv4().named_parameters()]


ELSEWHERE = """
import sys
sys.modules["maml_fast"] = None  # importing it fails
import torch
module, x, wanted = torch.load(sys.argv[1], weights_only=False)
assert torch.equal(module(x), wanted)
"""


@pytest.mark.backendless
def test_needs_no_maml_fast(tmp_path: Path) -> None:
    module = mf.deploy(MAML(conv4(), inner_lr=0.4, inner_steps=2, head="zero"), X, Y[3])
    torch.save((module, QUERIES, module(QUERIES).detach()), tmp_path / "module.pt")
    call = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, str(tmp_path / "module.pt")]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(256, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.batch_norm(x, None, None, training=True).flatten(1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.classifier = nn.BatchNorm2d(1), nn.Linear(256, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.norm(self.norm(x).exp()).flatten(1))


class Convolved(nn.Module):
    """Four outputs, and no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)


@pytest.mark.parametrize(
    ("make", "y", "message"),
    [
        (
            lambda: MAML(Functional(), inner_lr=0.1),
            Y[4],
            "other logits than the meta-learner: does the model's forward call",
        ),
        (lambda: MAML(Twice(), inner_lr=0.1), Y[4], "norm normalizes twice in one forward"),
        (lambda: MAML(Convolved(), inner_lr=0.1), Y[3], "y_spt has 3 classes, but the model has 4 outputs"),
        (lambda: MAML(conv4(), inner_lr=0.1), Y[3] * 2, "labels 0 to 4 without 1; number classes from 0 without gaps"),
        (lambda: MAML(conv4(), inner_lr=0.1), Y[3] - 1, "labels -1 to 1 without 0"),
        (lambda: MAML(conv4(), inner_lr=0.1), Y[3] * 0, "only one class"),
        (
            lambda: MAML(conv4(), inner_lr=0.1),
            Y[3][:5],
            "images .* and targets .* got x_spt .1, 12, .* and y_spt .1, 5.",
        ),
        (lambda: mf.algorithms.BOIL(conv4(), inner_lr=0.1), Y[3], "learned rows are for that many classes, not for 3"),
    ],
)
def test_what_can_not_be_deployed_is_refused(make, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mf.deploy(make(), X, y)


def test_as_many_outputs_as_classes_need_no_linear_layer() -> None:
    assert mf.deploy(MAML(Convolved(), inner_lr=0.1), X, Y[4])(QUERIES).shape == (7, 4)

"""MAML's state, its copies, and what it says of itself."""

from __future__ import annotations

import copy
import io
import logging
import pickle

import pytest
import torch
from small import conv_net, gradient, make_episodes
from torch import nn

import maml_fast as mf
from maml_fast import MAML, use_backend


@pytest.fixture
def episodes():
    return make_episodes()


@pytest.fixture
def model():
    return conv_net()


def test_state_dict_holds_the_model_once(model, episodes):
    maml = MAML(model)
    maml(episodes)
    assert list(maml.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    assert [id(p) for p in maml.parameters()] == [id(p) for p in model.parameters()]


def test_learned_rates_are_parameters_and_state(model):
    scalar = MAML(model, inner_lr=0.3, learn_inner_lr=True)
    assert "inner_lr" in scalar.state_dict()
    assert len(list(scalar.parameters())) == 7
    assert scalar.inner_lr.dtype == torch.float64
    mapping = MAML(model, inner_lr={"*": 0.1, "6.weight": 0.2}, learn_inner_lr=True)
    assert [name for name in mapping.state_dict() if "inner_lr" in name] == ["inner_lr.*", "inner_lr.6/weight"]
    assert float(mapping.inner_lr["6.weight"].detach()) == 0.2
    assert len(list(mapping.parameters())) == 8


def test_given_tensors_are_state_and_move_along(model, episodes):
    rate = torch.rand(5, 200, dtype=torch.float64)
    maml = MAML(model, inner_lr={"*": 0.1, "6.weight": rate}).float()
    assert maml.inner_lr["6.weight"].dtype == torch.float32
    assert "inner_lr.6/weight" in maml.state_dict()
    own = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
    maml = MAML(conv_net(), inner_lr=own)
    assert any(parameter is own for parameter in maml.parameters())
    maml(episodes).loss.backward()
    assert own.grad != 0


def test_training_moves_learned_rates(model, episodes):
    maml = MAML(model, inner_lr=0.1, inner_steps=2, learn_inner_lr=True)
    optimizer = torch.optim.SGD(maml.parameters(), lr=0.1)
    maml(episodes).loss.backward()
    optimizer.step()
    assert maml.inner_lr != 0.1


def test_attributes_may_change(model, episodes):
    maml = MAML(model, inner_lr=0.1, inner_steps=1, order=1)
    maml.inner_lr, maml.inner_steps, maml.order = 0.4, 3, 2
    assert torch.equal(gradient(maml, episodes), gradient(MAML(model, inner_lr=0.4, inner_steps=3, order=2), episodes))


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda maml: pickle.loads(pickle.dumps(maml)), lambda maml: saved_and_loaded(maml)],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_are_whole_and_apart(model, episodes, again, learn):
    maml = MAML(model, inner_lr=0.4, inner_steps=2, adapted=["0", "6"], learn_inner_lr=learn)
    wanted = gradient(maml, episodes)
    twin = again(maml)
    with torch.no_grad():
        for parameter in maml.parameters():
            parameter.zero_()
    torch.testing.assert_close(gradient(twin, episodes), wanted, rtol=0, atol=0)
    assert twin.describe() == maml.describe()
    twin.double().eval()
    gradient(twin, episodes)


def saved_and_loaded(maml):
    stream = io.BytesIO()
    torch.save(maml, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


def test_state_dict_carries_over(model, episodes):
    maml = MAML(model, inner_lr={"*": 0.1, "6": 0.3}, inner_steps=2, learn_inner_lr=True)
    torch.manual_seed(5)
    other = MAML(
        conv_net().apply(lambda m: getattr(m, "reset_parameters", int)()),
        inner_lr={"*": 1.0, "6": 1.0},
        inner_steps=2,
        learn_inner_lr=True,
    )
    assert not torch.equal(gradient(other, episodes), gradient(maml, episodes))
    other.load_state_dict(maml.state_dict())
    assert torch.equal(gradient(other, episodes), gradient(maml, episodes))


def test_says_what_runs(model, episodes, caplog):
    maml = MAML(model, inner_lr=0.4, inner_steps=3, order=2)
    assert "forward: recorded at the first call" in maml.describe()
    assert maml.fusion is None
    with caplog.at_level(logging.INFO, logger="maml_fast"):
        maml(episodes)
        maml(episodes)
    assert caplog.messages == [maml.describe()]
    for text in (repr(maml), maml.describe(), maml.batch_norm):
        assert "batch statistics (transductive, as in Finn's code)" in text
    assert "order 2, 3 inner steps" in maml.describe()
    assert "inner_lr=0.4" in repr(maml)
    assert len(maml.fusion.fused) == 1
    assert all(line in maml.describe() for line in maml.fusion.fused)
    unfused = MAML(model, fused=False)
    unfused(episodes)
    assert unfused.fusion is None


@pytest.mark.native
def test_does_not_warn_of_native_operations(caplog):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, dilation=2), nn.ELU(), nn.Flatten(), nn.Linear(16, 5)).double()
    maml = MAML(net)
    with caplog.at_level(logging.INFO, logger="maml_fast"):
        maml(make_episodes(shape=(1, 6, 6)))
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "forward: as native operations\n" in maml.describe()
    assert "left as written" not in maml.describe()


def test_warns_of_what_runs_unfused_and_says_why(caplog):
    convolution = nn.Conv2d(1, 4, 3, dilation=2)
    net = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)).double()
    with use_backend("reference"):
        MAML(net)(make_episodes(shape=(1, 6, 6)))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "dilation" in record.message


def test_fuses_what_users_write_and_the_models_of_the_package():
    assert len(fused(mf.models.Conv4(hidden=4), 1, 28, 28)) == 4
    assert len(fused(mf.models.TutorialNet(), 1, 28, 28)) == 4
    assert fused(mf.models.MLP((4, 3)), 4) == ()


def fused(model, *shape):
    maml = MAML(model)
    maml.predict({}, torch.rand(2, 5, *shape))
    return maml.fusion.fused

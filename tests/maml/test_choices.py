"""Which parameters adapt, and modules that need care."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import assert_follows_loop
from small import conv_net, make_episodes
from torch import nn

from maml_fast import MAML


@pytest.fixture
def episodes():
    return make_episodes()


@pytest.fixture
def model():
    return conv_net()


@pytest.mark.parametrize(
    ("adapt", "adapted"),
    [
        (None, ["0.weight", "0.bias", "1.weight", "1.bias", "6.weight", "6.bias"]),
        ("head", ["6.weight", "6.bias"]),
        ("1", ["1.weight", "1.bias"]),
        (["6", "0.bias"], ["0.bias", "6.weight", "6.bias"]),
        (("*.weight",), ["0.weight", "1.weight", "6.weight"]),
        ({"0.weight"}, ["0.weight"]),
        (lambda name: name.startswith("0"), ["0.weight", "0.bias"]),
    ],
    ids=["all", "head", "prefix", "list", "glob", "name", "predicate"],
)
def test_choice_of_what_adapts(model, episodes, adapt, adapted):
    maml = MAML(model, inner_lr=0.4, inner_steps=1, adapted=adapt)
    assert list(maml.adapted) == adapted
    fast = maml.adapt(episodes.x_spt, episodes.y_spt)
    assert list(fast) == adapted
    still = {name for name in fast if torch.equal(fast[name][0], model.get_parameter(name))}
    assert still <= {"0.bias"}  # batch norm follows: its true gradient is zero
    gradients = torch.autograd.grad(maml(episodes).loss, list(model.parameters()))
    assert all(
        (g != 0).any() for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if name != "0.bias"
    )


def test_numbers_of_numpy_are_numbers(model, episodes):
    maml = MAML(model, inner_lr=np.float32(0.5), inner_steps=np.int64(2))
    assert (maml.inner_lr, maml.inner_steps) == (0.5, 2)
    assert maml(episodes).loss == MAML(model, inner_lr=0.5, inner_steps=2)(episodes).loss


def test_model_rebuilt_under_its_maml(model, episodes):
    maml = MAML(model, inner_lr=0.4)
    model.append(nn.Linear(5, 5).double())
    with pytest.raises(RuntimeError, match=r"'7.bias', '7.weight'.*new MAML"):
        maml(episodes)


RATES = {
    "number": 0.1,
    "tensor": torch.tensor(0.1),
    "by name": {"*": 0.1},
    "by function": lambda parameter: 0.1,
}


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("rates", RATES)
def test_a_parameter_that_was_frozen_at_first(rates, learned):
    """It adapts by its rate, or one error says that it has none."""
    episodes = make_episodes()
    models = [conv_net(), conv_net()]
    models[0][0].weight.requires_grad_(False)
    late, whole = (MAML(each, inner_lr=RATES[rates], learn_inner_lr=learned) for each in models)
    assert late(episodes).loss != whole(episodes).loss
    models[0][0].weight.requires_grad_(True)
    if rates == "by function":
        with pytest.raises(RuntimeError, match=r"0.weight was frozen .* set inner_lr again"):
            late(episodes)
        if learned:
            return
        late.inner_lr = RATES[rates]
    assert late.adapted == whole.adapted
    assert late(episodes).loss == whole(episodes).loss


def test_another_inner_optimizer():
    maml = MAML(conv_net(), inner_lr=0.1)
    with pytest.raises(ValueError, match="inner_optimizer must be one of sgd, adam; got 'rmsprop'"):
        maml.inner_optimizer = "rmsprop"
    maml.inner_optimizer = "adam"
    episodes = make_episodes()
    assert maml(episodes).loss == MAML(conv_net(), inner_lr=0.1, inner_optimizer="adam")(episodes).loss


def test_frozen_parameters_stay(model, episodes):
    maml = MAML(model, inner_lr=0.4, inner_steps=2)
    model[0].requires_grad_(False)
    assert list(maml.adapted) == ["1.weight", "1.bias", "6.weight", "6.bias"]
    maml(episodes).loss.backward()
    assert model[0].weight.grad is None
    assert model[6].weight.grad is not None
    assert_follows_loop(model, maml, episodes)
    model[0].requires_grad_(True)
    assert len(maml.adapted) == 6


def test_parameters_that_the_loss_does_not_use(episodes):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(100, 5), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x.flatten(1))

    model = Net().double()
    for order in (1, 2):
        maml = MAML(model, inner_lr=0.1, inner_steps=2, order=order)
        fast = maml.adapt(episodes.x_spt, episodes.y_spt)
        assert torch.equal(fast["unused.weight"][0], model.unused.weight)
        maml(episodes).loss.backward()
        assert model.unused.weight.grad is None
        with pytest.raises(RuntimeError, match="unused"):
            MAML(model, order=order, adapted="unused")(episodes)


def test_tied_parameters_stay_tied(episodes):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.out = nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(100, 5)
            self.second.weight = self.first.weight
            self.again = self.second.bias

        def forward(self, x):
            return self.out(torch.tanh(self.second(torch.tanh(self.first(x)))).flatten(1) + self.again.sum())

    model = Tied().double()
    maml = MAML(model, inner_lr=0.1, inner_steps=2)
    assert_follows_loop(model, maml, episodes)
    assert model.second.weight is model.first.weight
    assert model.again is model.second.bias


def test_group_norm_and_residual_joins(episodes):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.GroupNorm(2, 8)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = self.stem(x)
            x = x + F.gelu(self.norm(self.conv(x)))
            return self.head(F.avg_pool2d(x, 10).flatten(1))

    torch.manual_seed(0)
    model = Net().double()
    maml = MAML(model, inner_lr=0.2, inner_steps=2)
    assert_follows_loop(model, maml, episodes)
    assert maml.fusion.fused == ()


def test_modules_without_a_form_for_all_tasks_run_task_by_task_and_say_so():
    class Largest(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = nn.Linear(4, 8), nn.Linear(6, 5)

        def forward(self, x):
            return self.head(self.hidden(x).topk(6).values)

    torch.manual_seed(0)
    model, episodes = Largest().double(), make_episodes(shape=(4,))
    maml = MAML(model, inner_lr=0.1, inner_steps=2)
    assert_follows_loop(model, maml, episodes)
    assert "forward: as written, task by task (topk has no form for all tasks at once)" in maml.describe()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_of_torch(layer, order):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = layer(4, 6, batch_first=True), nn.Linear(6, 5)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    model = Recurrent().double()
    maml = MAML(model, inner_lr=0.1, inner_steps=2, order=order)
    assert_follows_loop(model, maml, make_episodes(shape=(7, 4)))
    assert "forward: all tasks at once" in maml.describe()


def test_functions_that_look_at_values():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            return self.head(x) if x.sum() > 10 else -self.head(x)

    def loss_fn(logits, targets):
        return F.cross_entropy(logits, targets) * (1 if logits.sum().item() > 0 else 2)

    torch.manual_seed(0)
    model, episodes = Gated().double(), make_episodes(shape=(4,))
    assert len({bool(x.sum() > 10) for x in (*episodes.x_spt, *episodes.x_qry)}) == 2
    maml = MAML(model, inner_lr=0.1, inner_steps=2, loss_fn=loss_fn)
    assert_follows_loop(model, maml, episodes, loss_fn)

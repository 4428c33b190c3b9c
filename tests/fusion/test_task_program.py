"""All tasks at once, operation by operation: the numbers of the model as it is written, and who runs by which."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from fuse_nets import Conv4Plain, Functional
from fuse_zoo import CASES, OVERWRITES_ITS_INPUT, sequence
from torch import nn
from written_twin import as_written
from zoo_episodes import episodes_like, wavy

from maml_fast import MAML
from maml_fast.fusion import FusedModel
from maml_fast.models import MLP, Conv4, TutorialNet

ALL_AT_ONCE = "forward: all tasks at once"


def user_conv4(in_channels=1, hidden=4, size=16):
    channels = [in_channels, hidden, hidden, hidden, hidden]
    blocks = [
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        for a, b in pairwise(channels)
    ]
    return nn.Sequential(nn.Sequential(*blocks), nn.Flatten(), nn.Linear(hidden * (size // 16) ** 2, 5))


class Pooled(nn.Module):
    """A forward of its own, with all ways to come from an image to a vector."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden, self.out = nn.Linear(16, 6, bias=False), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x.view(-1, 1, 10, 10))))
        means = F.avg_pool2d(self.pool(x), 1).reshape(x.shape[0], -1)
        x = F.leaky_relu(self.hidden(means)).view(x.size()[0], 2, 3)
        return torch.tanh(self.out(torch.flatten(x, start_dim=1)))


class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.weight, self.bias = nn.Parameter(torch.rand(5, 4) - 0.5), nn.Parameter(torch.zeros(5))

    def forward(self, x):
        return F.linear(self.block(x).mean((-1, -2)), self.weight, self.bias)


class Pixels(nn.Module):
    """A linear layer on more than two dimensions, and tied weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(10, 10), nn.Linear(10, 10)
        self.second.weight = self.first.weight
        self.out = nn.Linear(100, 5)

    def forward(self, x):
        return self.out(F.gelu(self.second(self.first(x).relu())).flatten(1))


MODELS = {
    "conv4": (partial(Conv4, hidden=4, image_size=16), (5, 1, 16, 16)),
    "conv4 strided": (partial(Conv4, hidden=4, image_size=10, strided=True), (5, 1, 10, 10)),
    "tutorial": (TutorialNet, (5, 1, 28, 28)),
    "mlp": (partial(MLP, (100, 6, 5), init_std=0.3), (5, 1, 10, 10)),
    "a user's Sequential": (user_conv4, (5, 1, 16, 16)),
    "a user's forward": (Conv4Plain, (5, 2, 17, 17)),
    "a user's list of parameters": (Functional, (5, 2, 9, 9)),
    "pools and views": (Pooled, (5, 1, 10, 10)),
    "means": (Averaged, (5, 1, 10, 10)),
    "more dimensions, tied": (Pixels, (5, 1, 10, 10)),
}


def made(build):
    torch.manual_seed(0)
    model = build().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def outcome(maml, episodes, order):
    maml.order = order
    results = maml.task_results(episodes, per_step=True)
    parameters = [parameter for parameter in maml.model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(results.losses[-1].sum(), parameters, allow_unused=True, materialize_grads=True)
    return results.losses.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def assert_same(maml, twin, episodes, order):
    losses, gradient = outcome(maml, episodes, order)
    wanted_losses, wanted = outcome(twin, episodes, order)
    torch.testing.assert_close(losses, wanted_losses, rtol=1e-12, atol=1e-14)
    assert wanted.norm() > 0
    assert (gradient - wanted).norm() <= 1e-12 * wanted.norm()


def with_twin(maml):
    return maml, as_written(maml)


@cache
def of_models(name):
    return with_twin(MAML(made(MODELS[name][0]), inner_lr=0.02, inner_steps=2))  # larger ones amplify rounding


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_models_run_so_and_equal_what_is_written(name, order):
    maml, twin = of_models(name)
    assert ALL_AT_ONCE in maml.describe()
    x_spt, _, x_qry, _ = episodes_like(MODELS[name][1], n_tasks=3)
    y = torch.arange(5).expand(3, -1)
    assert_same(maml, twin, (x_spt, y, x_qry, y), order)


ZOO = [case for case in CASES if len(case.shapes) == 1 and case.name != OVERWRITES_ITS_INPUT]


@cache
def of_zoo(case):
    return with_twin(MAML(made(case.build).eval(), inner_lr=0.1, inner_steps=2, loss_fn=wavy))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("case", ZOO, ids=str)
def test_zoo_equals_what_is_written(case, order):
    assert_same(*of_zoo(case), episodes_like(case.shapes[0]), order)


def test_most_of_the_zoo_runs_so():
    assert sum(ALL_AT_ONCE in of_zoo(case)[0].describe() for case in ZOO) >= 56


@pytest.mark.parametrize("order", [1, 2])
def test_shared_parameters(order):
    model = made(user_conv4)
    x_spt, _, x_qry, _ = episodes_like((5, 1, 16, 16))
    y = torch.arange(5).expand(2, -1)
    for adapt in ("head", ["0.1", "0.3"]):
        assert_same(*with_twin(MAML(model, 0.1, 2, adapt=adapt)), (x_spt, y, x_qry, y), order)


WITHOUT_A_FORM = {
    "layer": (sequence(nn.Flatten(), nn.Linear(9, 5), nn.BatchNorm1d(5)), r"2 \(BatchNorm1d\) has no form"),
    "function": (lambda: Pieces(lambda x: F.pad(x, (0, 1))), r"pad\(\) has no form"),
    "method": (lambda: Pieces(lambda x: x.cumsum(1)), r"\.cumsum\(\) has no form"),
    "index": (lambda: Pieces(lambda x: x[:, :9]), r"getitem\(\) has no form"),
    "slice of its shape": (lambda: Pieces(lambda x: x[None].reshape(x.shape[-2:])), r"getitem\(\) has no form"),
    "mean of everything": (lambda: Pieces(lambda x: x.mean()), r"\.mean\(\) has no form"),
    "computed option": (lambda: Pieces(lambda x: F.leaky_relu(x, x.shape[1])), r"leaky_relu\(\) has no form"),
    "no tensor": (lambda: Pieces(lambda x: x.shape), "what it returns"),
    "two tensors": (lambda: Pieces(lambda x: (x, x)), "one tensor to one tensor"),
    "control flow": (lambda: Pieces(lambda x: x if x.sum() > 0 else -x), "no recording"),
    "plain attribute": (lambda: Pieces(lambda x: F.linear(x, Pieces.fixed)), "no recording"),
}


class Pieces(nn.Module):
    fixed = torch.ones(5, 9)

    def __init__(self, how):
        super().__init__()
        self.how, self.out = how, nn.Linear(9, 5)

    def forward(self, x):
        return self.how(self.out(x.flatten(1)))


@pytest.mark.parametrize("what", WITHOUT_A_FORM)
def test_anything_else_runs_as_it_is_written_and_says_why(what):
    build, why = WITHOUT_A_FORM[what]
    described = MAML(build()).describe()
    assert ALL_AT_ONCE not in described
    with pytest.raises(AssertionError, match=rf"forward: as written, task by task \(.*{why}"):
        raise AssertionError(described)


def test_a_forward_of_the_instances_own_is_not_left_out():
    model = made(user_conv4)
    layer = model[0][0][0]
    layer.forward = lambda x: 2 * type(layer).forward(layer, x)
    maml = MAML(model)
    assert "the forward of 0.0.0 was replaced on the instance" in maml.describe()
    del layer.forward
    assert ALL_AT_ONCE in maml.describe()


def test_hooks_are_not_left_out():
    model = made(user_conv4)
    model[0][0][0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert "0.0.0 (Conv2d) has no form" in MAML(model).describe()
    model = made(user_conv4)
    model.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert "forward has hooks" in MAML(model).describe()


@pytest.mark.parametrize(("width", "together"), [(100, True), (200, False)])
def test_large_models_without_blocks_run_as_written_on_a_cpu(width, together):
    """One call for all tasks saves Python's overhead alone, and that is little beside large weights."""
    described = MAML(nn.Sequential(nn.Linear(900, width), nn.ReLU(), nn.Linear(width, 5))).describe()
    assert (ALL_AT_ONCE in described) == together
    assert ("parameters without a conv block" in described) != together


def test_large_models_of_blocks_run_all_at_once():
    assert ALL_AT_ONCE in MAML(user_conv4(hidden=64)).describe()


def test_switched_off():
    assert "as written, task by task (fusion is switched off)" in MAML(made(user_conv4), fused=False).describe()


def test_follows_the_modes_of_the_model():
    class TwoFaced(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(9, 5)

        def forward(self, x):
            x = self.out(x.flatten(1))
            return x.cumsum(1) if self.training else x.relu()

    maml = MAML(TwoFaced())
    assert "cumsum" in maml.describe()
    assert ALL_AT_ONCE in maml.eval().describe()
    maml.model.train()
    assert "cumsum" in maml.describe()


def test_dimensions_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match=r"linear layer of 9 features got \[2, 3, 8\]"):
        MAML(Pieces(torch.relu)).predict({}, torch.rand(2, 3, 2, 4))


def test_values_are_let_go_once_they_are_not_needed():
    model = FusedModel(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh()), "batch")
    lines = model.task_program().lines
    assert [[node.name for node in line.done] for line in lines] == [["input_1"], ["_0"], ["_1"], ["_2"]]

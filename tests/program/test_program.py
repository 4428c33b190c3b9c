"""All tasks at once, operation by operation: the numbers of the model as it is written, and who runs by which."""

from __future__ import annotations

import random
from contextlib import nullcontext
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from fuse_nets import Conv4Plain, Functional
from fuse_zoo import CASES, OVERWRITES_ITS_INPUT
from torch import nn
from written_twin import as_written
from zoo_episodes import episodes_like, wavy

from maml_fast import MAML, Episodes, use_engine
from maml_fast.models import MLP, Conv4, TutorialNet
from maml_fast.program import Programs

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


def assert_same(maml, twin, episodes, order, engine=nullcontext()):  # noqa: B008
    with engine:
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
    x_spt, _, x_qry, _ = episodes_like(MODELS[name][1], n_tasks=3)
    y = torch.arange(5).expand(3, -1)
    assert_same(maml, twin, (x_spt, y, x_qry, y), order)
    assert ALL_AT_ONCE in maml.describe()


ZOO = [case for case in CASES if len(case.shapes) == 1 and case.name != OVERWRITES_ITS_INPUT]


@cache
def of_zoo(case):
    return with_twin(MAML(made(case.build).eval(), inner_lr=0.1, inner_steps=2, loss_fn=wavy))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("case", ZOO, ids=str)
def test_zoo_equals_what_is_written(case, order):
    """All tasks at once, whether or not that is faster."""
    maml, twin = of_zoo(case)
    engine = use_engine("batched") if runs_together(maml.model, case.shapes[0]) else nullcontext()
    assert_same(maml, twin, episodes_like(case.shapes[0]), order, engine)


def test_most_of_the_zoo_runs_so():
    assert sum(runs_together(of_zoo(case)[0].model, case.shapes[0]) for case in ZOO) >= 56


def runs_together(model, shape):
    return not isinstance(Programs(model, "batch").of(episodes_like(shape)[0]), str)


@pytest.mark.parametrize("order", [1, 2])
def test_shared_parameters(order):
    model = made(user_conv4)
    x_spt, _, x_qry, _ = episodes_like((5, 1, 16, 16))
    y = torch.arange(5).expand(2, -1)
    for adapt in ("head", ["0.1", "0.3"]):
        assert_same(*with_twin(MAML(model, inner_lr=0.1, inner_steps=2, adapted=adapt)), (x_spt, y, x_qry, y), order)


class Affine(nn.Sequential):
    """Norms with parameters of their own, on images and sequences."""

    def __init__(self):
        super().__init__(nn.LayerNorm([2, 4]), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.BatchNorm1d(4))
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        x = self[0](x.unflatten(1, (2, 4))).reshape(-1, 4, 2)
        return self.out(self[3](self[2](self[1](x)) * x).flatten(1))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 5)

    def forward(self, x):
        return self.out(self.embedding(x.abs().mul(9).long().clamp(max=6)).mean(1))


class Pieces(nn.Module):
    fixed = torch.ones(5, 9)

    def __init__(self, how):
        super().__init__()
        self.how, self.out = how, nn.Linear(9, 5)

    def forward(self, x):
        return self.how(self.out(x.flatten(1)))


X = torch.rand(3, 4, 9)
X5 = torch.rand(3, 5, 9)


def described(model, x=X):
    maml = MAML(model, inner_optimizer="adam")  # which is not native
    y = torch.zeros(x.shape[:2], dtype=torch.int64)
    maml.engine_for(Episodes(x, y, x, y))
    return maml.describe()


AS_WRITTEN = {
    "no form": (lambda x: F.fold(x[..., None], (1, 1), 1), "has no form for all tasks at once"),
    "no tensor": (lambda x: x.shape, "forward returns a Size"),
    "two tensors": (lambda x: (x, x), "forward returns a tuple"),
    "control flow": (lambda x: x if x.sum() > 0 else -x, "depends on the values"),
    "a shape of values": (lambda x: x * len(x[x > 0]), "depends on the values"),
    "values as numbers": (lambda x: x * x.detach().max().item(), r"calls item\(\)"),
    "plain attribute": (lambda x: F.linear(x, Pieces.fixed), "does not come from its input"),
    "gradients off": (lambda x: x + torch.no_grad()(torch.relu)(x), "_set_grad_enabled"),
    "asks for gradients": (lambda x: x if torch.is_grad_enabled() else -x, "asks whether gradients are enabled"),
    "asks a tensor": (lambda x: x if x.requires_grad else -x, r"reads or sets a tensor's \.requires_grad"),
    "data": (lambda x: x + x.data, r"reads or sets a tensor's \.data"),
    "writes to a view": (lambda x: (x[:, :2].zero_(), x * 2)[1], "which it also has another view"),
    "draws": (lambda x: x * random.random(), "random numbers of its own"),
}


@pytest.mark.parametrize("what", AS_WRITTEN)
def test_anything_else_runs_as_it_is_written_and_says_why(what):
    how, why = AS_WRITTEN[what]
    with pytest.raises(AssertionError, match=rf"forward: as written, task by task \(.*{why}"):
        raise AssertionError(described(Pieces(how)))


TOGETHER = {
    "padding": lambda x: F.pad(x, (0, 1))[:, :-1],
    "sum along": lambda x: x.cumsum(1),
    "slice of its shape": lambda x: x[None].reshape(x.shape[-2:]),
    "mean of everything": lambda x: x * x.mean(),
    "computed option": lambda x: F.leaky_relu(x, 1 / x.shape[1]),
    "constants": lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=x.dtype) + torch.arange(5, dtype=x.dtype),
    "in place": lambda x: x.clone().mul_(2).add_(1),
    "stopped gradient": lambda x: x + (x.round() - x).detach(),
    "norms": lambda x: F.layer_norm(x, (5,)) + F.instance_norm(x[:, None], eps=0.1)[:, 0],
    "softmax": lambda x: x.softmax(-1) + F.log_softmax(x, 0),
    "joins": lambda x: torch.cat([x, torch.stack([x, x], 2).mean(2)], 1)[:, ::2],
    "parts": lambda x: torch.cat(x.split([2, 3], 1)[::-1], 1),
    "products": lambda x: x @ x.mT @ x + torch.einsum("ni,nj->nij", x, x).sum(2),
    "images": lambda x: F.interpolate(F.avg_pool1d(x[:, None], 2), size=5)[:, 0],
    "moved": lambda x: x.flip(1).roll(1, 0).tril(1),
    "statistics": lambda x: (
        (x - x.amax(1, keepdim=True)) / x.var(0, keepdim=True).add(1).sqrt() + x.norm(dim=1)[:, None]
    ),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("what", TOGETHER)
def test_operations_of_all_kinds_run_for_all_tasks_at_once(what, order):
    maml, twin = with_twin(MAML(made(lambda: Pieces(TOGETHER[what])), inner_lr=0.02, inner_steps=2))
    x_spt, _, x_qry, _ = episodes_like((5, 9), n_tasks=3)
    y = torch.arange(5).expand(3, -1)
    assert_same(maml, twin, (x_spt, y, x_qry, y), order)
    assert ALL_AT_ONCE in maml.describe()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("build", [Affine, Tokens])
def test_parameters_of_norms_and_embeddings(build, order):
    maml, twin = with_twin(MAML(made(build), inner_lr=0.02, inner_steps=2))
    x_spt, _, x_qry, _ = episodes_like((5, 8), n_tasks=3)
    y = torch.arange(5).expand(3, -1)
    assert_same(maml, twin, (x_spt, y, x_qry, y), order)
    assert ALL_AT_ONCE in maml.describe()


def test_a_forward_of_the_instances_own_is_recorded():
    model = made(user_conv4)
    layer = model[0][0][0]
    maml = MAML(model)
    x = torch.rand(2, 4, 1, 16, 16, dtype=torch.float64)
    before = maml.predict({}, x)
    layer.forward = lambda x: 2 * type(layer).forward(layer, x) + x
    torch.testing.assert_close(maml.predict({}, x), torch.stack([model(each) for each in x]))
    del layer.forward
    assert torch.equal(maml.predict({}, x), before)


def test_hooks_are_recorded():
    model = made(user_conv4)
    x = torch.rand(2, 4, 1, 16, 16, dtype=torch.float64)
    maml = MAML(model)
    maml.predict({}, x)
    hook = model[2].register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(maml.predict({}, x), torch.stack([model(each) for each in x]))
    assert ALL_AT_ONCE in maml.describe()
    hook.remove()
    model[2].register_full_backward_hook(lambda module, given, taken: None)
    maml.predict({}, x)
    assert "has backward hooks" in maml.describe()


class LastState(nn.Module):
    """A classifier of what nn.LSTM has at the end: outputs, and both states."""

    def __init__(self, **options):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, **options)
        outputs, _ = self.rnn(torch.rand(3, 2, 5))
        self.head = nn.Linear(outputs.shape[-1], 5)

    def forward(self, x):
        outputs, (hidden, cell) = self.rnn(x.transpose(0, 1) if not self.rnn.batch_first else x)
        last = outputs[:, -1] if self.rnn.batch_first else outputs[-1]
        return self.head(last) + hidden.mean() + cell.mean(dim=2).sum(dim=0)[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True}, {"bidirectional": True}, {"bias": False}, {"num_layers": 2}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_lstm_runs_for_all_tasks_at_once(options, order, dtype):
    """In float32 it is one operation of oneDNN, which is faster alone at order 1; it has no float64."""
    torch.manual_seed(0)
    maml, twin = with_twin(MAML(LastState(**options).to(dtype), inner_lr=0.1, inner_steps=2, order=order))
    x_spt, x_qry = torch.rand(2, 3, 5, 4, 5, dtype=dtype)
    y = torch.arange(5).expand(3, -1)
    episodes = Episodes(x_spt, y, x_qry, y)
    assert maml.engine_for(episodes) in ("native", "loop" if order == 1 and dtype == torch.float32 else "batched")
    with use_engine("batched"):
        found = outcome(maml, episodes, order)
    wanted = outcome(twin, episodes, order)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10 if dtype == torch.float64 else 2e-4, atol=1e-6)


def with_weight_norm(dim):
    layers = [nn.utils.parametrizations.weight_norm(nn.Linear(9, 6), dim=dim), nn.Tanh(), nn.Linear(6, 5)]
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize("order", [1, 2])
def test_weight_norm_as_a_whole_runs_for_all_tasks_at_once(order):
    maml, twin = with_twin(MAML(made(lambda: with_weight_norm(None)), inner_lr=0.02, inner_steps=2))
    x_spt, _, x_qry, _ = episodes_like((5, 9), n_tasks=3)
    y = torch.arange(5).expand(3, -1)
    assert_same(maml, twin, (x_spt, y, x_qry, y), order)
    assert ALL_AT_ONCE in maml.describe()


def test_weight_norm_by_rows_is_told_to_be_wrong_for_as_long_as_it_is(caplog):
    """PyTorch's own double backward takes the norms for constants."""
    v, g = torch.rand(4, 3, dtype=torch.float64), torch.rand(4, 1, dtype=torch.float64)
    inputs = [each.requires_grad_() for each in (v, g)]
    assert torch.autograd.gradcheck(partial(torch._weight_norm, dim=0), inputs)
    assert not torch.autograd.gradgradcheck(partial(torch._weight_norm, dim=0), inputs, raise_exception=False)
    maml, twin = with_twin(MAML(with_weight_norm(0).double(), inner_lr=0.02, inner_steps=2))
    y = torch.arange(5).expand(3, -1)
    assert_same(maml, twin, Episodes(*(part.double() if part is not y else y for part in (X5, y, X5, y))), 2)
    assert "second derivative of PyTorch's weight norm is wrong" in caplog.text


@pytest.mark.parametrize(
    ("threads", "width", "together"), [(1, 100, True), (1, 200, False), (2, 200, True), (2, 300, False)]
)
def test_large_models_without_blocks_run_as_written_on_a_cpu(threads, width, together):
    """One call for all tasks saves Python's overhead alone, and that is little beside large weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        text = described(nn.Sequential(nn.Linear(900, width), nn.ReLU(), nn.Linear(width, 5)), torch.rand(3, 3, 900))
    finally:
        torch.set_num_threads(before)
    assert (ALL_AT_ONCE in text) == together
    assert ("parameters without a conv block" in text) != together


def test_large_models_of_blocks_run_all_at_once():
    assert ALL_AT_ONCE in described(user_conv4(hidden=64), torch.rand(2, 3, 1, 16, 16))


def test_switched_off():
    maml = MAML(made(user_conv4), fused=False)
    maml.predict({}, torch.rand(2, 3, 1, 16, 16, dtype=torch.float64))
    assert "as written, task by task (fusion is switched off)" in maml.describe()


def test_follows_the_modes_of_the_model():
    class TwoFaced(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(9, 5)

        def forward(self, x):
            x = self.out(x.flatten(1))
            return (x if x.sum() > 0 else -x) if self.training else x.relu()

    maml = MAML(TwoFaced())
    for train in (True, False, True):
        maml.train(train).predict({}, X)
        assert (ALL_AT_ONCE in maml.describe()) != train


def test_dimensions_that_do_not_fit_are_an_error():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        MAML(Pieces(torch.relu)).predict({}, torch.rand(2, 3, 2, 4))


def test_values_are_let_go_once_they_are_not_needed():
    model = nn.Sequential(nn.Linear(9, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh())
    program = Programs(model, "batch").of(X)
    kept = set()
    for line in program.lines:
        kept.update(line.call.results)
        kept.difference_update(line.done)
        assert len(kept) <= 2
    assert kept == {program.result}


@pytest.mark.parametrize("where", [..., 0])
def test_a_buffer_that_is_read_and_then_written_to_is_not_recorded(where):
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(9, 5)
            self.register_buffer("scale", torch.ones(5))

        def forward(self, x):
            x = self.out(x.flatten(1)) * self.scale.clone()
            self.scale[where].add_(1)
            return x

    model = Drifting()
    assert Programs(model, "batch").of(X) == "forward writes to tensors of the model that it reads"
    assert torch.equal(model.scale, torch.ones(5))

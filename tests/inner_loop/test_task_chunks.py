"""Chunk by chunk: the results and the meta-gradient of all tasks at once, and no gradient lost."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from small import conv_net, gradient, make_episodes
from torch import nn
from torch.func import functional_call
from written_twin import as_written

from maml_fast import MAML, Episodes, evaluate, use_engine
from maml_fast.inner_loop import _chunks as chunks

CHUNKED, WHOLE = {"task_chunk": 2}, {"task_chunk": None}


@pytest.fixture
def episodes():
    return make_episodes(n_tasks=5)


def plain_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 6), nn.Tanh(), nn.Linear(6, 5)).double()


def assert_close(one, other):
    assert other.norm() > 0
    assert (one - other).norm() <= 1e-12 * other.norm()


def assert_same_gradients(make, sources, episodes):
    """``make(task_chunk)`` is a MAML; the gradients of ``sources`` must not depend on the chunk."""
    whole = torch.autograd.grad(make(None).task_results(episodes).losses[-1].mean(), sources)
    for chunk in (1, 2, 3):
        chunked = torch.autograd.grad(make(chunk)(episodes).loss, sources)
        for one, other in zip(chunked, whole, strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
def test_equals_all_at_once(episodes, order, chunk):
    model = conv_net()
    maml = MAML(model, inner_lr=0.3, inner_steps=2, order=order, task_chunk=chunk)
    out, wanted_gradient = maml(episodes, per_step=True), gradient(maml, episodes)
    maml.task_chunk = None
    wanted = maml(episodes, per_step=True)
    for one, other in zip(out, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert_close(gradient(maml, episodes), wanted_gradient)


def test_as_written_too(episodes):
    model = conv_net()
    chunked, whole = (as_written(MAML(model, inner_lr=0.3, inner_steps=2)) for _ in range(2))
    chunked.task_chunk, whole.task_chunk = 2, None
    assert_close(gradient(chunked, episodes), gradient(whole, episodes))


@pytest.mark.parametrize("order", [1, 2])
def test_backward_adds_to_the_parameters_and_scales(episodes, order):
    maml = MAML(conv_net(), inner_lr=0.3, inner_steps=1, order=order, task_chunk=2)
    parameters = list(maml.parameters())
    expected = torch.autograd.grad(maml(episodes).loss, parameters)
    for _ in range(2):
        (3 * maml(episodes).loss + 1).backward()
    for parameter, once in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, 6 * once, rtol=1e-12, atol=1e-15)


def test_same_bits_every_time(episodes):
    maml = MAML(conv_net(), inner_lr=0.3, inner_steps=2, task_chunk=2)
    assert torch.equal(gradient(maml, episodes), gradient(maml, episodes))


@pytest.mark.parametrize("order", [1, 2])
def test_learnable_rates_and_shared_parameters(episodes, order):
    model = conv_net()
    maml = MAML(
        model,
        inner_lr={"*": 0.1, "6": 0.3},
        inner_steps=2,
        order=order,
        adapted=["1", "6"],
        learn_inner_lr=True,
        task_chunk=None,
    )

    def with_chunk(chunk):
        maml.task_chunk = chunk
        return maml

    sources = [source for source in maml.parameters() if source is not model[0].bias]  # batch norm follows: no gradient
    assert len(sources) == 7
    assert_same_gradients(with_chunk, sources, episodes)


def test_a_parameter_in_the_loss(episodes):
    temperature = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    model = plain_net()

    def loss_fn(logits, targets):
        decay = sum(parameter.square().sum() for parameter in model.parameters())
        return F.cross_entropy(logits / temperature, targets) + 0.1 * decay

    sources = [*model.parameters(), temperature]
    assert_same_gradients(
        lambda chunk: MAML(model, inner_lr=0.3, inner_steps=2, loss_fn=loss_fn, task_chunk=chunk), sources, episodes
    )


def test_a_tensor_in_the_model_that_is_no_parameter(episodes):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain_net()
            self.scales = [torch.ones(5, dtype=torch.float64, requires_grad=True)]

        def forward(self, x):
            return self.net(x) * self.scales[0]

    model = Scaled()
    sources = [*model.parameters(), model.scales[0]]
    assert_same_gradients(
        lambda chunk: MAML(model, inner_lr=0.3, inner_steps=2, fused=False, task_chunk=chunk), sources, episodes
    )


@pytest.mark.parametrize("leaf", [True, False])
def test_images_that_require_grad(episodes, leaf):
    x = episodes.x_spt.clone().requires_grad_()
    x_spt, x_qry = (x, episodes.x_qry) if leaf else (2 * x, x.mean() * episodes.x_qry)
    given = episodes._replace(x_spt=x_spt, x_qry=x_qry)

    def gradient_at(chunk):
        maml = MAML(plain_net(), inner_lr=0.3, inner_steps=2, task_chunk=chunk)
        return torch.autograd.grad(maml(given).loss, x, retain_graph=True)[0]

    whole = gradient_at(None)
    for chunk in (1, 2):
        assert_close(gradient_at(chunk), whole)


@pytest.mark.parametrize("mapping", [True, False])
def test_rates_computed_outside(episodes, mapping):
    log_rate = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    model = plain_net()

    def meta_gradient(chunk):
        rate = log_rate.exp()
        rate.retain_grad()
        maml = MAML(model, inner_lr={"*": rate} if mapping else rate, inner_steps=2, task_chunk=chunk)
        loss = maml(episodes).loss + rate  # the graph outside is needed once more
        log_rate.grad = None
        loss.backward()
        return torch.stack([log_rate.grad, rate.grad])

    assert_close(meta_gradient(2), meta_gradient(None))


def test_hooks_of_parameters_run_once(episodes):
    model = plain_net()
    plain = gradient(MAML(model, inner_lr=0.3, inner_steps=2, task_chunk=2), episodes)
    for parameter in model.parameters():
        parameter.register_hook(lambda g: 0.5 * g)
    assert_close(gradient(MAML(model, inner_lr=0.3, inner_steps=2, task_chunk=2), episodes), 0.5 * plain)


def computed_in_the_closure():
    source = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    scale = source.exp()
    return source, lambda logits, targets: F.cross_entropy(logits * scale, targets)


def hooked_in_the_closure():
    source = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    source.register_hook(lambda g: 3 * g)
    return source, lambda logits, targets: F.cross_entropy(logits * source, targets)


@pytest.mark.parametrize("chunk", [2, None, "auto"])
@pytest.mark.parametrize(
    ("build", "reason"), [(computed_in_the_closure, "ExpBackward0"), (hooked_in_the_closure, "hooks")]
)
def test_a_graph_from_outside_is_refused_and_the_error_says_what_takes_it(episodes, build, reason, chunk):
    source, loss_fn = build()
    model = plain_net()
    maml = MAML(model, inner_lr=0.3, inner_steps=2, loss_fn=loss_fn, task_chunk=chunk)
    with pytest.raises(RuntimeError, match=rf"{reason}.*inside loss_fn, or use maml.task_results"):
        maml(episodes)
    gradients = torch.autograd.grad(maml.task_results(episodes).losses[-1].mean(), [*model.parameters(), source])
    assert all(gradient.norm() > 0 for gradient in gradients)


def test_no_warning_without_gradients(episodes):
    _, loss_fn = computed_in_the_closure()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        MAML(plain_net(), inner_lr=0.3, inner_steps=2, loss_fn=loss_fn, task_chunk=2)(episodes)


@pytest.mark.parametrize("chunk", [2, None])
@pytest.mark.parametrize("order", [1, 2])
def test_third_derivatives_are_refused_of_the_loss_and_right_of_the_results(episodes, order, chunk):
    model = plain_net()
    parameters = list(model.parameters())
    maml = MAML(model, inner_lr=0.3, inner_steps=1, order=order, task_chunk=chunk)
    first = torch.autograd.grad(maml(episodes).loss, parameters, create_graph=True)
    with pytest.raises(RuntimeError, match=r"maml\.task_results\(episodes\)"):
        sum(each.square().sum() for each in first).backward()
    whole = maml.task_results(episodes).losses[-1].mean()
    with_graph = torch.autograd.grad(whole, parameters, create_graph=True)
    for one, other in zip(first, with_graph, strict=True):
        assert_close(one.detach(), other.detach())
    sum(each.square().sum() for each in with_graph).backward()
    assert model[1].weight.grad.norm() > 0


@pytest.mark.parametrize("transformed", [True, False])
def test_parameters_put_in_place_for_a_call(episodes, transformed):
    """By ``functional_call``, as the results of something else, or under ``torch.func.grad``."""
    model = plain_net()

    def meta_gradient(chunk):
        maml = MAML(model, inner_lr=0.3, inner_steps=2, task_chunk=chunk)

        def loss(scale):
            parameters = {name: scale * parameter for name, parameter in maml.named_parameters()}
            return functional_call(maml, parameters, (episodes,)).loss

        scale = torch.ones((), dtype=torch.float64, requires_grad=not transformed)
        return torch.func.grad(loss)(scale) if transformed else torch.autograd.grad(loss(scale), scale)[0]

    assert_close(meta_gradient(2), meta_gradient(None))


def test_a_graph_is_used_up(episodes):
    loss = MAML(plain_net(), inner_lr=0.3, inner_steps=1, task_chunk=2)(episodes).loss
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_unused_and_frozen_parameters_have_no_gradient(episodes):
    model = plain_net()
    model.extra = nn.Linear(2, 2).double()
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))
    model[3].bias.requires_grad_(False)
    MAML(model, inner_lr=0.3, inner_steps=1, task_chunk=2)(episodes).loss.backward()
    assert model.extra.weight.grad is None
    assert model[3].bias.grad is None
    assert model[1].weight.grad is not None


def test_graphs_of_chunks_are_gone(episodes):
    """While a chunk is worked on, nothing of the one before is held."""
    alive, most = set(), []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits):
            ctx.token = object.__new__(Token)
            alive.add(id(ctx.token))
            most.append(len(alive))
            return logits.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Token:
        def __del__(self):
            alive.discard(id(self))

    def loss_fn(logits, targets):
        return F.cross_entropy(Watched.apply(logits), targets)

    def most_alive(chunk):
        most.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Watched has no batching rule
            maml = MAML(plain_net(), inner_lr=0.3, inner_steps=0, loss_fn=loss_fn, task_chunk=chunk)
            maml(episodes)
        return max(most)

    assert most_alive(None) == 5
    assert most_alive(3) == 3
    assert most_alive(1) == 1


def test_dropout_draws_for_every_task():
    maml = MAML(conv_net(dropout=0.5), inner_lr=0.4, inner_steps=1, task_chunk=2)
    same = Episodes(*(part[:1].expand(4, *part.shape[1:]) for part in make_episodes()))
    with torch.no_grad():
        assert maml.task_results(same).losses[-1].unique().numel() == 4


def test_evaluation_in_chunks_is_the_same(episodes):
    maml = MAML(conv_net(), inner_lr=0.3, inner_steps=2, task_chunk=2)
    chunked = evaluate(maml, [episodes], 5)
    results = maml.task_results(episodes, per_step=True)
    maml.task_chunk = None
    whole = evaluate(maml, [episodes], 5)
    assert chunked.accuracies == whole.accuracies
    torch.testing.assert_close(torch.tensor(chunked.losses), torch.tensor(whole.losses), rtol=1e-12, atol=0)
    assert results.losses.shape == results.correct.shape == (3, 5)
    assert results.losses.requires_grad


def test_regression_in_chunks():
    x = torch.rand(5, 6, 1)
    out = MAML(nn.Linear(1, 1), inner_lr=0.1, inner_steps=2, loss_fn=F.mse_loss, task_chunk=2)(
        (x, 3 * x, x, 3 * x), per_step=True
    )
    assert out.query_accuracy is None
    assert out.query_losses.shape == (3,)


def test_auto_is_what_fits_in_the_budget(episodes, monkeypatch):
    def told() -> str:
        maml = MAML(plain_net(), inner_lr=0.3, inner_optimizer="adam")  # which is not native
        maml(episodes)
        return maml.describe()

    assert "in memory: all tasks\n" in told()
    images = chunks.GRAPH_FACTOR * episodes.x_spt.shape[1] + episodes.x_qry.shape[1]
    computed, weights = images * (6 + 6 + 5), 100 * 6 + 6 + 6 * 5 + 5  # by two layers and tanh
    monkeypatch.setattr(chunks, "BUDGET", 3 * 8 * (computed + 7 * weights))
    assert "in memory: 3 tasks at a time\n" in told()
    monkeypatch.setattr(chunks, "BUDGET", 1)
    assert "in memory: 1 task at a time\n" in told()


@pytest.mark.parametrize(("tasks", "chunk", "engine"), [(5, None, "batched"), (2, None, "loop"), (5, 2, "loop")])
def test_few_tasks_of_a_net_without_conv_blocks_go_alone(tasks, chunk, engine):
    """Which is faster on a CPU."""
    batch = make_episodes(n_tasks=tasks)
    maml = MAML(
        plain_net(), inner_lr=0.3, inner_steps=2, task_chunk=chunk, inner_optimizer="adam"
    )  # which is not native
    assert maml.engine_for(batch) == engine
    found = torch.autograd.grad(maml(batch).loss, list(maml.parameters()))
    with use_engine("batched"):
        assert maml.engine_for(batch) == "batched"
        for one, other in zip(found, torch.autograd.grad(maml(batch).loss, list(maml.parameters())), strict=True):
            assert_close(one, other)


def test_chunks_are_of_like_size(episodes):
    maml = MAML(plain_net(), inner_lr=0.3, task_chunk=4, inner_optimizer="adam")
    maml(episodes)
    assert "in memory: 3 tasks at a time\n" in maml.describe()


@pytest.mark.parametrize("chunk", [0, -1, 1.5, "some", True])
def test_bad_chunks(chunk, episodes):
    with pytest.raises(ValueError, match=f"task_chunk must be .*got {chunk!r}"):
        MAML(plain_net(), task_chunk=chunk)
    maml = MAML(plain_net())
    with pytest.raises(ValueError, match=f"task_chunk must be .*got {chunk!r}"):
        maml.task_chunk = chunk

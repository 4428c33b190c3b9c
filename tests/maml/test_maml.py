"""What MAML gives, and in which contexts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_follows_loop, module_loop_loss
from small import conv_net, gradient, make_episodes
from torch import nn

from maml_fast import MAML, Episodes


@pytest.fixture
def episodes():
    return make_episodes()


@pytest.fixture
def model():
    return conv_net()


def test_output_of_one_batch(model, episodes):
    maml = MAML(model, inner_lr=0.4, inner_steps=2)
    out = maml(episodes)
    assert out.loss.shape == out.query_accuracy.shape == ()
    assert out.loss.requires_grad
    assert not out.query_accuracy.requires_grad
    assert out.query_losses is None
    assert out.query_accuracies is None
    assert maml(tuple(episodes)).loss == out.loss


def test_loss_and_accuracy_are_those_of_the_logits(model, episodes):
    maml = MAML(model, inner_lr=0.4, inner_steps=2)
    out = maml(episodes)
    logits = maml.predict(maml.adapt(episodes.x_spt, episodes.y_spt), episodes.x_qry)
    assert logits.shape == (3, 10, 5)
    torch.testing.assert_close(out.loss, F.cross_entropy(logits.flatten(0, 1), episodes.y_qry.flatten()))
    right = (logits.argmax(dim=-1) == episodes.y_qry).double().mean()
    torch.testing.assert_close(out.query_accuracy.double(), right, rtol=1e-6, atol=0)


def test_every_step_is_recorded_on_request(model, episodes):
    maml = MAML(model, inner_lr=0.4, inner_steps=3)
    out = maml(episodes, per_step=True)
    assert out.query_losses.shape == out.query_accuracies.shape == (4,)
    assert not out.query_losses.requires_grad
    for step in range(4):
        alone = maml(episodes, inner_steps=step)
        torch.testing.assert_close(out.query_losses[step], alone.loss.detach(), rtol=1e-12, atol=0)
        assert out.query_accuracies[step] == alone.query_accuracy
    assert out.query_losses[0] != out.query_losses[3]
    plain = maml(episodes)
    assert out.loss == plain.loss
    parameters = list(model.parameters())
    recorded, unrecorded = (torch.autograd.grad(o.loss, parameters) for o in (out, plain))
    assert all(torch.equal(a, b) for a, b in zip(recorded, unrecorded, strict=True))


def test_no_inner_step_is_the_plain_loss(model, episodes):
    maml = MAML(model, inner_steps=0)
    out = maml(episodes, per_step=True)
    torch.testing.assert_close(out.loss, module_loop_loss(model, episodes, 0.4, 0)[0], rtol=1e-12, atol=0)
    assert out.query_losses.shape == (1,)
    assert gradient(maml, episodes).norm() > 0


def test_adapt_starts_at_theta_without_a_copy_per_task(model, episodes):
    fast = MAML(model).adapt(episodes.x_spt, episodes.y_spt, inner_steps=0)
    for name, theta in model.named_parameters():
        assert fast[name].shape == (3, *theta.shape)
        assert fast[name].stride(0) == 0
        if name != "0.weight":  # the filters of a fused block are copied, once
            assert fast[name].data_ptr() == theta.data_ptr()


def test_regression_has_no_accuracy():
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    x, y = torch.rand(2, 6, 1), torch.rand(2, 6, 1)
    out = MAML(model, inner_lr=0.1, inner_steps=2, loss_fn=F.mse_loss)((x, y, x, y), per_step=True)
    assert out.query_accuracy is None
    assert out.query_accuracies is None
    assert out.query_losses.shape == (3,)


def test_dense_labels_are_counted_pixel_by_pixel():
    model = nn.Conv2d(1, 3, 1).double()
    x = torch.rand(2, 4, 1, 5, 5, dtype=torch.float64)
    y = torch.randint(3, (2, 4, 5, 5))
    maml = MAML(model, inner_lr=0.1, inner_steps=1)
    logits = maml.predict(maml.adapt(x, y), x)
    out = maml((x, y, x, y))
    torch.testing.assert_close(
        out.query_accuracy.double(), (logits.argmax(dim=2) == y).double().mean(), rtol=1e-6, atol=0
    )


def test_loss_that_is_not_finite_becomes_nan_and_nothing_raises(model, episodes):
    out = MAML(model, inner_lr=1e300, inner_steps=3)(episodes)
    assert not torch.isfinite(out.loss)


def test_meta_training_learns_something():
    torch.manual_seed(0)
    maml = MAML(
        nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 1)), inner_lr=0.1, inner_steps=1, loss_fn=F.mse_loss
    )
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        x = torch.rand(16, 20, 1) * 6 - 3
        y = torch.sin(x + 3 * torch.rand(16, 1, 1))
        loss = maml((x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert torch.stack(losses[-20:]).mean() < 0.5 * torch.stack(losses[:5]).mean()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("order", [1, 2])
def test_adapts_where_gradients_are_off(model, episodes, context, order):
    maml = MAML(model, inner_lr=0.4, inner_steps=2, order=order)
    wanted = maml(episodes, per_step=True)
    fast = maml.adapt(episodes.x_spt, episodes.y_spt)
    with context():
        out = maml(make_episodes(), per_step=True)  # made in the context, as inference tensors
        detached = maml.adapt(*make_episodes()[:2])
        logits = maml.predict(detached, make_episodes().x_qry)
    assert not out.loss.requires_grad
    torch.testing.assert_close(out.query_losses, wanted.query_losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(logits, maml.predict(fast, episodes.x_qry).detach(), rtol=1e-12, atol=1e-14)
    for name, weight in detached.items():
        assert not weight.requires_grad
        torch.testing.assert_close(weight, fast[name].detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("fused", [True, False])
def test_batch_statistics_whatever_the_mode_and_running_ones_untouched(model, episodes, fused):
    maml = MAML(model, inner_lr=0.4, inner_steps=2, fused=fused)
    before = copy.deepcopy(model.state_dict())
    training, evaluating = maml.train()(episodes), maml.eval()(episodes)
    assert training.loss == evaluating.loss
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("fused", [True, False])
def test_running_statistics_on_request(model, episodes, fused):
    for _ in range(3):
        model(torch.rand(16, 1, 10, 10, dtype=torch.float64))
    before = copy.deepcopy(model.state_dict())
    maml = MAML(model, inner_lr=0.1, inner_steps=0, batch_norm="running", fused=fused)
    expected = F.cross_entropy(copy.deepcopy(model).eval()(episodes.x_qry.flatten(0, 1)), episodes.y_qry.flatten())
    for mode in (True, False):
        torch.testing.assert_close(maml.train(mode)(episodes).loss, expected, rtol=1e-12, atol=0)
    assert maml(episodes, inner_steps=2).loss != expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "running" in maml.batch_norm


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_obeys_the_mode_and_draws_for_every_task(episodes, fused):
    model = conv_net(dropout=0.5)
    maml = MAML(model, inner_lr=0.4, inner_steps=0, fused=fused)
    same = Episodes(*(part[:1].expand(3, *part.shape[1:]) for part in episodes))
    with torch.no_grad():
        dropped = maml.task_results(same).losses[-1]
        kept = maml.eval().task_results(same).losses[-1]
        again = maml.train().task_results(same).losses[-1]
        model.eval()
        assert maml.task_results(same).losses[-1].unique().numel() == 1
    assert dropped.unique().numel() == again.unique().numel() == 3
    assert kept.unique().numel() == 1


def test_shared_buffers_are_read_and_never_written(episodes):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(100, 5)
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, x):
            self.calls += 1
            return self.linear(x.flatten(1)) * self.scale

    model = Counting().double()
    for fused in (True, False):
        MAML(model, inner_steps=2, fused=fused)(episodes).loss.backward()
        assert model.calls == 0
    assert_follows_loop(model, MAML(model, inner_lr=0.1, inner_steps=2), episodes)


def test_works_when_the_model_is_moved_afterwards(episodes):
    model = conv_net().float()
    maml = MAML(model, inner_lr=0.4, inner_steps=2)
    single = maml(episodes.to(torch.float32)).loss
    double = maml.double()(episodes).loss
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=0)
    assert_follows_loop(model, maml, episodes)

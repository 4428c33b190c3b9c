"""What runs as it is written is the user's own module: what it does, and what it holds before and after."""

from __future__ import annotations

import copy
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_follows_loop, module_loop_loss
from small import make_episodes
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from maml_fast import MAML, Episodes

RATE, STEPS = 0.1, 2


class TwoLayers(nn.Module):
    """What happens between them is said by a function of the module and the hidden values."""

    def __init__(self, between=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.between = nn.Linear(7, 6), nn.Linear(6, 5), between
        self.double()

    def forward(self, x):
        return self.second(self.between(self, self.first(x)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.head = nn.GRU(7, 6, batch_first=True), nn.Linear(6, 5)
        self.double()

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


@pytest.fixture
def episodes():
    return make_episodes(shape=(7,))


def only_task(episodes, task):
    return Episodes(*(part[task : task + 1] for part in episodes))


def test_a_model_keeps_its_parameters_whatever_happens(episodes):
    def fails_at_the_queries(model, x):
        if len(x) == episodes.x_qry.shape[1]:
            raise ArithmeticError("as asked for")
        return x.cumsum(1)

    model = TwoLayers(fails_at_the_queries)
    before = dict(model.named_parameters())
    with pytest.raises(ArithmeticError, match="as asked for"):
        MAML(model, inner_lr=RATE, inner_steps=STEPS)(episodes)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())


def in_threads(learners, batches):
    """The losses of every learner on a batch of its own, in so many threads at once."""
    got, interval = [None] * len(batches), sys.getswitchinterval()

    def work(i):
        got[i] = learners[i](batches[i]).loss.item()

    sys.setswitchinterval(1e-6)  # so that threads meet
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return got


def test_one_model_in_several_threads():
    maml = MAML(Recurrent(), inner_lr=RATE, inner_steps=STEPS)
    batches = [make_episodes(shape=(3, 7), seed=seed) for seed in range(4)]
    wanted, before = [maml(batch).loss.item() for batch in batches], list(maml.model.parameters())
    for _ in range(5):
        assert in_threads([maml] * 4, batches) == pytest.approx(wanted, rel=1e-12)
    assert all(one is other for one, other in zip(maml.model.parameters(), before, strict=True))


@pytest.mark.parametrize("used_alone_before", [False, True])
def test_models_that_share_a_part_in_several_threads(used_alone_before):
    def cubed(_, x):
        return x.cumsum(1) ** 3  # takes its time, and has no form for all tasks

    body, other = TwoLayers(cubed), TwoLayers(cubed)
    batches = [make_episodes(shape=(7,), seed=seed) for seed in range(4)]
    if used_alone_before:
        for part in (body, other):
            MAML(part, inner_lr=RATE, inner_steps=STEPS, fused=False)(batches[0])
    heads = [nn.Linear(5, 5).double() for _ in range(3)]
    models = [
        body,
        nn.Sequential(body, heads[0]),
        nn.Sequential(other, heads[1]),
        nn.Sequential(body, other_end(other)),
    ]
    learners = [MAML(model, inner_lr=RATE, inner_steps=STEPS, fused=False) for model in models]
    wanted = [learner(batch).loss.item() for learner, batch in zip(learners, batches, strict=True)]
    before = [*body.parameters(), *other.parameters()]
    for _ in range(5):
        assert in_threads(learners, batches) == pytest.approx(wanted, rel=1e-12)
    assert all(one is each for one, each in zip([*body.parameters(), *other.parameters()], before, strict=True))


def other_end(other):
    """What takes the 5 outputs of another net where 7 values are wanted."""
    return nn.Sequential(nn.Linear(5, 7).double(), other)


def test_recurrent_layers_hold_their_own_weights_afterwards():
    model, episodes = Recurrent(), make_episodes(shape=(3, 7))
    MAML(model, inner_lr=RATE, inner_steps=STEPS)(episodes).loss.backward()
    assert all(
        weight is model.gru._parameters[name]
        for weight, name in zip(model.gru._flat_weights, model.gru._flat_weights_names, strict=True)
    )
    copy.deepcopy(model)  # refused if it held results


def spectral():
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(7, 6)), nn.ReLU(), nn.Linear(6, 5)).double()


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_buffers_that_forward_writes_are_each_tasks_own(episodes, chunk):
    model = spectral()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    maml = MAML(model, inner_lr=RATE, inner_steps=STEPS, task_chunk=chunk)
    each = [MAML(spectral(), inner_lr=RATE, inner_steps=STEPS) for _ in range(len(episodes.x_spt))]
    losses = [alone(only_task(episodes, task)).loss for task, alone in enumerate(each)]
    loss = maml(episodes).loss
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-12, atol=0)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    theirs = [torch.autograd.grad(loss, list(alone.parameters())) for loss, alone in zip(losses, each, strict=True)]
    for one, *others in zip(ours, *theirs, strict=True):
        torch.testing.assert_close(one, torch.stack(others).mean(dim=0), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_forward_may_ask_for_gradients(episodes):
    model = TwoLayers(lambda model, x: torch.tanh(x) if x.requires_grad else torch.relu(x))
    assert_follows_loop(model, MAML(model, inner_lr=RATE, inner_steps=STEPS), episodes)


def test_a_term_left_on_the_module_reaches_the_loss(episodes):
    def between(model, x):
        model.penalty = x.pow(2).mean()
        return torch.tanh(x)

    model = TwoLayers(between)

    def loss_fn(logits, targets):
        return F.cross_entropy(logits, targets) + model.penalty

    losses = []
    parameters = dict(model.named_parameters())
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes, strict=True):
        loss = loss_fn(functional_call(model, parameters, (x_spt,)), y_spt)
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        fast = {name: w - RATE * g for (name, w), g in zip(parameters.items(), gradients, strict=True)}
        losses.append(loss_fn(functional_call(model, fast, (x_qry,)), y_qry))
    wanted = torch.stack(losses).mean()
    theirs = torch.autograd.grad(wanted, list(parameters.values()))
    got = MAML(model, inner_lr=RATE, inner_steps=1, loss_fn=loss_fn)(episodes).loss
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)
    for one, other in zip(torch.autograd.grad(got, list(parameters.values())), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_forward_replaced_on_the_instance_runs(episodes):
    model = TwoLayers(lambda model, x: x.cumsum(1))
    layer = model.second
    layer.forward = lambda x: F.linear(x, 2 * layer.weight, layer.bias)
    maml = MAML(model, inner_lr=RATE, inner_steps=STEPS)
    wanted = torch.stack([model(x) for x in episodes.x_qry])
    torch.testing.assert_close(maml.predict({}, episodes.x_qry), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("policy", ["batch", "running"])
@pytest.mark.parametrize("build", [nn.Sequential, type("OfAUser", (nn.Sequential,), {})])
def test_batch_norm_follows_the_policy_in_any_mode(episodes, build, policy):
    """Layers of torch.nn alone are told apart from a user's own, which may also call the function."""
    torch.manual_seed(0)
    model = build(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5)).double()
    model(episodes.x_spt.flatten(0, 1))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    maml = MAML(model, inner_lr=RATE, inner_steps=STEPS, batch_norm=policy)
    logits = [maml.train(mode).predict({}, episodes.x_qry) for mode in (True, False)]
    wanted = torch.stack([copy.deepcopy(model).train(policy == "batch")(x) for x in episodes.x_qry])
    for each in logits:
        torch.testing.assert_close(each, wanted, rtol=1e-12, atol=1e-14)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_what_forward_counts_is_counted_once_a_call(episodes):
    def between(model, x):
        model.calls["forward"] += 1
        return x.cumsum(1)

    model = TwoLayers(between)
    model.calls = {"forward": 0}
    maml = MAML(model, inner_lr=RATE, inner_steps=STEPS)
    model.calls["forward"] = 0
    maml(episodes)
    assert model.calls == {"forward": len(episodes.x_spt) * (STEPS + 1)}


@pytest.mark.parametrize("order", [1, 2])
def test_checkpoints_compute_by_the_tasks_weights(episodes, order):
    """Non-reentrant checkpointing computes again in the backward pass, when the module holds its own weights."""

    def between(model, x):
        return checkpoint(lambda x: torch.tanh(model.hidden(x)) * 2, x, use_reentrant=False)

    model, plain = TwoLayers(between), TwoLayers(lambda model, x: torch.tanh(model.hidden(x)) * 2)
    torch.manual_seed(1)
    model.hidden = nn.Linear(6, 6).double()
    plain.hidden = copy.deepcopy(model.hidden)
    wanted, theirs = module_loop_loss(plain, episodes, RATE, STEPS, order=order)
    loss = MAML(model, inner_lr=RATE, inner_steps=STEPS, order=order)(episodes).loss
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-12, atol=0)
    for one, other in zip(torch.autograd.grad(loss, list(model.parameters())), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * s * (1 + x * (1 - s))


@pytest.mark.parametrize(
    "between",
    [
        lambda model, x: Swish.apply(x),
        lambda model, x: torch.tanh(torch.as_tensor(x, dtype=torch.float64)),
        lambda model, x: torch.tanh(torch.asarray(x)),
    ],
    ids=["autograd.Function", "as_tensor", "asarray"],
)
@pytest.mark.filterwarnings("ignore:torch.asarray")  # says once what it does with requires_grad
@pytest.mark.parametrize("order", [1, 2])
def test_what_takes_tensors_apart_is_not_recorded(between, order, episodes):
    """With a stand-in it would end the process."""
    model = TwoLayers(between)
    assert_follows_loop(model, MAML(model, inner_lr=RATE, inner_steps=STEPS, order=order), episodes)


def test_an_order_in_memory_changes_no_numbers():
    """One of images, where all tasks have a dimension more."""

    class ChannelsLast(nn.Sequential):
        def forward(self, x):
            return super().forward(x.contiguous(memory_format=torch.channels_last).clone())

    torch.manual_seed(0)
    block = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    model = ChannelsLast(*block, nn.Flatten(), nn.Linear(4 * 4, 5)).double()
    maml = MAML(model, inner_lr=RATE, inner_steps=STEPS)
    episodes = make_episodes(shape=(1, 4, 4))
    assert_follows_loop(model, maml, episodes)
    assert "all tasks at once" in maml.describe()
    maml.predict(maml.adapt(episodes.x_spt, episodes.y_spt), episodes.x_qry)


def test_checkpoints_around_functions_of_ones_own_are_refused(episodes):
    model = TwoLayers(lambda model, x: checkpoint(lambda x: Swish.apply(model.hidden(x)), x, use_reentrant=False))
    model.hidden = nn.Linear(6, 6).double()
    with pytest.raises(RuntimeError, match="more tensors during recomputation than during the original"):
        MAML(model, inner_lr=RATE, inner_steps=STEPS, fused=False)(episodes)

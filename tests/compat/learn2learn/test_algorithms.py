"""The drop-in for learn2learn follows what learn2learn does, written here in plain autograd, in float64."""

from __future__ import annotations

import argparse
import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from fuse_nets import (
    Buffered,
    Conv4Plain,
    DataDependent,
    Gated,
    Residual,
    ShapeDependent,
    SharedTwice,
    TensorOfItsOwn,
    layers,
)
from small import conv_net, make_episodes
from torch import Tensor, nn
from torch.func import functional_call

import maml_fast as mf
from maml_fast import ops
from maml_fast.compat import learn2learn as l2l
from maml_fast.program import _programs as programs

LR = 0.05


class Tied(nn.Module):
    """One convolution's filters twice, in different blocks, and a bias of both linear layers."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*layers("CBR"), *layers("CBRP", cin=3))
        self.again = nn.Sequential(*layers("CBR", cin=3))
        self.again[0].weight = self.blocks[3].weight
        self.first, self.second = nn.Linear(48, 4), nn.Linear(4, 4)
        self.second.bias = self.first.bias

    def forward(self, x):
        return self.second(self.first(self.again(self.blocks(x)).flatten(1)))


class Recurrent(nn.Module):
    """Features of an image as a sequence of rows."""

    def __init__(self):
        super().__init__()
        self.blocks, self.rows = nn.Sequential(*layers("CBRP")), nn.GRU(12, 4, batch_first=True)

    def forward(self, x):
        return self.rows(self.blocks(x).permute(0, 2, 1, 3).flatten(2))[0][:, -1]


class LearnedBuffer(nn.Module):
    """A buffer that takes part in the gradient, beside one that does not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(162, 4)
        self.register_buffer("shift", torch.ones(4, dtype=torch.float64, requires_grad=True))  # .double() would copy
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x):
        return self.linear(x.flatten(1)) * self.scale * self.shift


NETS = {  # and how many blocks are fused
    "sequential": (lambda: nn.Sequential(*layers("CBRP"), *layers("CRBP", cin=3), nn.Flatten(), nn.Linear(12, 4)), 2),
    "nested": (Conv4Plain, 4),
    "residual": (Residual, 1),
    "shared module": (SharedTwice, 3),
    "tied parameters": (Tied, 3),
    "control flow of shapes": (ShapeDependent, 4),
    "control flow of values": (DataDependent, 0),
    "control flow in a part": (Gated, 2),
    "buffers": (Buffered, 1),
    "a tensor of its own": (TensorOfItsOwn, 0),
    "a learned buffer": (LearnedBuffer, 0),
    "recurrent": (Recurrent, 1),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(162, 8), nn.Tanh(), nn.Linear(8, 4)), 0),
}
over_nets = pytest.mark.parametrize("net", NETS)
both_orders = pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])


def build(net: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[net][0]().double()


def images(net: str, seed: int) -> Tensor:
    side = 17 if net == "nested" else 9
    return torch.randn(6, 2, side, side, generator=torch.Generator().manual_seed(seed)).double()


def loss_of(outputs: Tensor) -> Tensor:
    return (outputs.sin() * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)).mean() * 10


class Oracle:
    """A learner of a dictionary of fast weights; running statistics are the model's own, as in learn2learn."""

    def __init__(self, model, first_order=False, weights=None):
        self.model, self.first_order = model, first_order
        self.weights = dict(model.named_parameters()) if weights is None else dict(weights)

    def __call__(self, x):
        return functional_call(self.model, self.weights, (x,), tie_weights=not has_two_names(self.model))

    def clone(self):
        return Oracle(self.model, self.first_order, self.weights)

    def adapt(self, loss, rates=None):
        gradients = torch.autograd.grad(loss, list(self.weights.values()), create_graph=not self.first_order)
        rates = rates or [LR] * len(gradients)
        steps = zip(self.weights.items(), rates, gradients, strict=True)
        self.weights = {name: weight - rate * gradient for (name, weight), rate, gradient in steps}


def has_two_names(model):
    """functional_call leaves a module with two names full of what it was given, unless told not to tie."""
    return isinstance(model, SharedTwice)


def learned(model):
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if t.requires_grad}


def assert_same_gradients(model, expected):
    assert any(parameter.grad.norm() > 0 for parameter in expected.parameters())
    for (name, parameter), wanted in zip(learned(model).items(), learned(expected).values(), strict=True):
        scale = max(1.0, float(wanted.grad.abs().max()))
        assert (parameter.grad - wanted.grad).abs().max() <= 1e-10 * scale, name


def assert_same_buffers(model, expected):
    for (name, buffer), wanted in zip(model.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, wanted, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def fused_calls(monkeypatch):
    """One entry for every fused operation that ran and kept running statistics."""
    calls = []

    def counting(*args, run=ops.conv_block_with_statistics, **kwargs):
        calls.append(None)
        return run(*args, **kwargs)

    monkeypatch.setattr(ops, "conv_block_with_statistics", counting)
    return calls


def recorded(maml, net, fused_calls):
    """The same, once it has been recorded, which is a call too."""
    maml.clone()(images(net, 0))
    fused_calls.clear()
    return maml


# --- MAML against plain autograd


def two_tasks(learner_of, net, steps):
    """Two clones side by side, adapted in turn; both losses back into the model."""
    learners = [learner_of.clone(), learner_of.clone()]
    for step in range(steps):
        for task, learner in enumerate(learners):
            learner.adapt(loss_of(learner(images(net, 10 * task + step))))
    losses = [loss_of(learner(images(net, 10 * task + 5))) for task, learner in enumerate(learners)]
    for loss in losses:
        loss.backward()
    return torch.stack(losses).detach()


@over_nets
@both_orders
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_loss_gradient_and_buffers_are_those_of_plain_autograd(net, first_order, steps):
    model, expected = build(net), build(net)
    maml = l2l.algorithms.MAML(model, lr=LR, first_order=first_order)
    actual = two_tasks(maml, net, steps)
    assert len(maml.fusion.fused) == NETS[net][1], str(maml.fusion)
    wanted = two_tasks(Oracle(expected, first_order), net, steps)
    torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)
    assert_same_gradients(model, expected)
    assert_same_buffers(model, expected)


def test_clones_run_on_the_fused_operation_in_training_alone(fused_calls):
    maml = l2l.algorithms.MAML(build("nested"), lr=LR)
    learner = recorded(maml, "nested", fused_calls).clone()
    learner(images("nested", 0))
    assert len(fused_calls) == 4
    learner.eval()(images("nested", 0))
    assert len(fused_calls) == 4
    learner.train().clone()(images("nested", 0))
    maml(images("nested", 0))
    assert len(fused_calls) == 12


def test_clones_share_one_recording(monkeypatch):
    made = []

    def counting(*args, record=programs.record):
        made.append(None)
        return record(*args)

    monkeypatch.setattr(programs, "record", counting)
    maml = l2l.algorithms.MAML(build("nested"), lr=LR)
    two_tasks(maml, "nested", 2)
    assert len(made) == 1
    maml.eval()
    two_tasks(maml, "nested", 1)
    maml.train()
    two_tasks(maml, "nested", 1)
    assert len(made) == 2


def test_a_model_wrapped_in_eval_is_fused_when_it_trains(fused_calls):
    maml = l2l.algorithms.MAML(build("nested").eval(), lr=LR)
    maml.clone()(images("nested", 0))
    assert not fused_calls
    maml.train()
    recorded(maml, "nested", fused_calls).clone()(images("nested", 0))
    assert len(fused_calls) == 4


def test_evaluation_reads_the_running_statistics_that_clones_left():
    model, expected = build("nested"), build("nested")
    maml = l2l.algorithms.MAML(model, lr=LR)
    two_tasks(maml, "nested", 1)
    two_tasks(Oracle(expected), "nested", 1)
    assert model.encoder[0][1].num_batches_tracked == 4
    maml.eval()
    expected.eval()
    learner, oracle = maml.clone(), Oracle(expected)
    for each in (learner, oracle):
        each.adapt(loss_of(each(images("nested", 3))))
    x = images("nested", 4)
    torch.testing.assert_close(learner(x), oracle(x), rtol=1e-9, atol=1e-9)
    assert model.encoder[0][1].num_batches_tracked == 4


@both_orders
def test_clone_of_an_adapted_clone(first_order):
    model, expected = build("sequential"), build("sequential")
    losses = []
    for start in (l2l.algorithms.MAML(model, LR, first_order), Oracle(expected, first_order)):
        parent = start.clone()
        parent.adapt(loss_of(parent(images("", 0))))
        child = parent.clone()
        for step in (1, 2):
            child.adapt(loss_of(child(images("", step))))
        loss = loss_of(child(images("", 3))) + 2 * loss_of(parent(images("", 4)))
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
    assert_same_gradients(model, expected)


def test_orders_and_permissions_can_be_chosen_at_every_clone_and_step():
    gradients = []
    for in_init, in_clone, in_adapt in ((True, None, None), (False, True, None), (False, False, True)):
        model = build("sequential")
        learner = l2l.algorithms.MAML(model, LR, first_order=in_init).clone(first_order=in_clone)
        learner.adapt(loss_of(learner(images("", 0))), first_order=in_adapt)
        loss_of(learner(images("", 1))).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
    maml = l2l.algorithms.MAML(build("sequential"), LR, allow_nograd=True)
    assert (maml.allow_unused, maml.clone().allow_unused, maml.clone(allow_nograd=False).allow_unused) == (True,) * 3
    assert not maml.clone(allow_nograd=False).allow_nograd


def test_a_learned_rate_gets_its_gradient():
    rate = nn.Parameter(torch.tensor(LR, dtype=torch.float64))
    maml = l2l.algorithms.MAML(build("sequential"), lr=rate)
    assert any(parameter is rate for parameter in maml.parameters())

    def meta_loss():
        learner = maml.clone()
        learner.adapt(loss_of(learner(images("", 0))))
        return loss_of(learner(images("", 1)))

    meta_loss().backward()
    rate.data += 1e-6
    above = meta_loss().detach()
    rate.data -= 2e-6
    below = meta_loss().detach()
    torch.testing.assert_close(rate.grad, (above - below) / 2e-6, rtol=1e-5, atol=1e-7)


# --- training


def train(maml, learner_of, parameters, batches):
    """learn2learn's documented training loop."""
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for episodes in batches:
        optimizer.zero_grad()
        for x_spt, y_spt, x_qry, y_qry in zip(*episodes, strict=True):
            learner = learner_of(maml)
            for _ in range(2):
                learner.adapt(F.cross_entropy(learner(x_spt), y_spt))
            F.cross_entropy(learner(x_qry), y_qry).backward()
        for parameter in parameters:
            parameter.grad.mul_(1.0 / len(episodes.x_spt))
        optimizer.step()


def train_batched(maml, batches):
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-2)
    for episodes in batches:
        optimizer.zero_grad()
        maml(episodes).loss.backward()
        optimizer.step()


@both_orders
def test_twenty_meta_steps_equal_the_plain_loop_and_the_batched_call(first_order):
    # A convolution's bias under batch norm has no gradient but noise, which Adam makes as large as any.
    start = conv_net()
    start[0].bias = None
    ours, plain, batched = (copy.deepcopy(start) for _ in range(3))
    batches = [make_episodes(seed=seed) for seed in range(20)]
    maml = l2l.algorithms.MAML(ours, lr=LR, first_order=first_order)
    train(maml, l2l.algorithms.MAML.clone, list(maml.parameters()), batches)
    train(
        Oracle(plain, first_order), lambda oracle: Oracle(oracle.model, first_order), list(plain.parameters()), batches
    )
    train_batched(mf.MAML(batched, inner_lr=LR, inner_steps=2, order=1 if first_order else 2), batches)
    assert len(maml.fusion.fused) == 1
    for (name, parameter), wanted, again in zip(
        ours.named_parameters(), plain.parameters(), batched.parameters(), strict=True
    ):
        assert (parameter - dict(start.named_parameters())[name]).abs().max() > 0.01
        torch.testing.assert_close(parameter, wanted, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(parameter, again, rtol=1e-8, atol=1e-8)
    assert_same_buffers(ours, plain)
    assert ours[1].num_batches_tracked == 20 * 3 * 3


# --- MetaSGD


@both_orders
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("net", ["sequential", "tied parameters", "recurrent"])
def test_meta_sgd_and_its_rates_follow_plain_autograd(net, first_order, steps):
    model, expected = build(net), build(net)
    meta = l2l.algorithms.MetaSGD(model, lr=LR, first_order=first_order)
    rates = [torch.full_like(parameter, LR).requires_grad_() for parameter in expected.parameters()]
    assert len(list(meta.parameters())) == 2 * len(rates)
    with torch.no_grad():
        for own, rate in zip(meta.lrs, rates, strict=True):
            rate.mul_(torch.rand_like(rate) + 0.5)
            own.copy_(rate)
    losses = []
    for learner, extra in ((meta.clone(), ()), (Oracle(expected, first_order), (rates,))):
        for step in range(steps):
            learner.adapt(loss_of(learner(images(net, step))), *extra)
        losses.append(loss_of(learner(images(net, 5))))
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
    assert_same_gradients(model, expected)
    for own, rate in zip(meta.lrs, rates, strict=True):
        assert rate.grad.norm() > 0 or first_order or steps == 1
        torch.testing.assert_close(own.grad, rate.grad, rtol=1e-9, atol=1e-9)


def test_meta_sgd_takes_rates_and_clones_of_clones():
    model = build("linear")
    lrs = nn.ParameterList([nn.Parameter(torch.rand_like(parameter)) for parameter in model.parameters()])
    meta = l2l.algorithms.MetaSGD(model, lrs=lrs)
    assert meta.lrs is lrs
    child = meta.clone().clone()
    child.adapt(loss_of(child(images("linear", 0))), first_order=True)
    loss_of(child(images("linear", 1))).backward()
    assert all(rate.grad.norm() > 0 for rate in lrs)
    with pytest.raises(ValueError, match="lrs must hold a rate for each of 4 parameters, got 3"):
        l2l.algorithms.MetaSGD(model, lrs=list(lrs)[:3])


# --- errors


class WithUnused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.used(x)


def test_a_parameter_that_the_loss_does_not_need():
    x = torch.randn(4, 3)
    maml = l2l.algorithms.MAML(WithUnused(), lr=1.0)
    learner = maml.clone()
    with pytest.raises(RuntimeError, match=r"does not depend on idle.weight: .*allow_unused=True"):
        learner.adapt(learner(x).sum())
    with pytest.raises(RuntimeError, match=r"used.weight, used.bias, idle.weight: was it computed by this"):
        learner.adapt(maml.clone()(x).sum())
    rates = l2l.algorithms.MetaSGD(WithUnused()).clone()
    with pytest.raises(RuntimeError, match=r"does not depend on idle.weight"):
        rates.adapt(rates(x).sum())
    learner.adapt(learner(x).sum(), allow_unused=True)
    assert torch.equal(learner.idle.weight, maml.idle.weight)
    torch.testing.assert_close(learner.used.bias, maml.used.bias - 4)


def test_a_frozen_parameter():
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), torch.randn(4, 3)
    model[0].requires_grad_(False)
    learner = l2l.algorithms.MAML(model, lr=1.0).clone()
    with pytest.raises(RuntimeError, match=r"0.weight, 0.bias: requires_grad is False.*allow_nograd=True"):
        learner.adapt(learner(x).sum())
    learner.adapt(learner(x).sum(), allow_nograd=True)
    assert torch.equal(learner.module[0].weight, model[0].weight)
    torch.testing.assert_close(learner.module[1].bias, model[1].bias - 4)


def test_a_loss_without_a_graph():
    learner = l2l.algorithms.MAML(nn.Linear(3, 2), lr=1.0).clone()
    with torch.no_grad():
        loss = learner(torch.randn(4, 3)).sum()
    with pytest.raises(RuntimeError, match="no graph to differentiate: was it computed under no_grad"):
        learner.adapt(loss)


def test_a_model_fused_before():
    with pytest.raises(ValueError, match=r"put its .original in its place"):
        l2l.algorithms.MAML(mf.fuse(build("nested")), lr=1.0)


def test_what_is_not_here_is_named():
    with pytest.raises(AttributeError, match=r"learn2learn has no 'absent', only MAML, .*vision"):
        l2l.absent  # noqa: B018


# --- modules


def test_names_are_learn2learns():
    from maml_fast.compat.learn2learn.algorithms import MAML, MetaSGD, maml_update
    from maml_fast.compat.learn2learn.utils import clone_module

    assert mf.compat.learn2learn.MAML is l2l.algorithms.MAML is MAML
    assert l2l.MetaSGD is MetaSGD
    assert l2l.clone_module is clone_module
    assert l2l.maml_update is maml_update


def test_attributes_fall_through_to_the_module():
    model = build("nested")
    model.note = ["any object"]
    maml = l2l.algorithms.MAML(model, lr=LR)
    learner = maml.clone()
    assert maml.module is model
    assert learner.note is model.note
    assert isinstance(learner.module, Conv4Plain)
    assert learner.head.weight is learner.module.head.weight
    assert learner.head.weight is not model.head.weight
    assert (learner.lr, learner.first_order) == (LR, False)
    with pytest.raises(AttributeError, match="'Conv4Plain' object has no attribute 'absent'"):
        maml.absent  # noqa: B018


def test_state_dict_device_and_copies():
    maml = l2l.algorithms.MAML(build("nested"), lr=LR)
    maml.clone()(images("nested", 0))
    other = l2l.algorithms.MAML(Conv4Plain(), lr=LR).double()
    other.load_state_dict(maml.state_dict())
    assert next(iter(maml.state_dict())) == "module.encoder.0.0.weight"
    x = images("nested", 1)
    wanted = maml.eval()(x)
    for copied in (other.eval(), copy.deepcopy(maml), pickle.loads(pickle.dumps(maml))):
        assert torch.equal(copied(x), wanted)
        assert torch.equal(copied.clone()(x), wanted)
    assert maml.to("meta").clone().head.weight.device.type == "meta"


def test_calls_take_and_return_anything():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(*layers("CBR"))

        def forward(self, x, *, scale=1.0):
            y = self.block(x)
            return {"features": y, "scaled": y * scale}

    model = Many().double()
    expected = copy.deepcopy(model)(images("", 0), scale=3.0)
    actual = l2l.algorithms.MAML(model, lr=LR).clone()(images("", 0), scale=3.0)
    assert list(actual) == ["features", "scaled"]
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def test_what_forward_leaves_in_a_clone_is_found_there():
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.seen = nn.Sequential(*layers("CBR")), 0

        def forward(self, x):
            self.seen = self.seen + 1
            return self.block(x)

    maml = l2l.algorithms.MAML(Remembering().double(), lr=LR)
    learner = maml.clone()
    learner(images("", 0))
    assert (learner.seen, maml.seen) == (1, 0)


@pytest.mark.parametrize("change", ["attribute", "part", "hook"])
def test_a_changed_module_runs_as_written_after_a_warning(change, fused_calls):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.scale = nn.Sequential(*layers("CBR")), 1.0

        def forward(self, x):
            return self.block(x) * self.scale

    maml = recorded(l2l.algorithms.MAML(Scaled().double(), lr=LR), "", fused_calls)
    x, seen = images("", 0), []
    before = maml.clone()(x)
    assert len(fused_calls) == 1
    learner = maml.clone()
    if change == "attribute":
        learner.module.scale = 2.0
    elif change == "part":
        learner.module.block[2] = nn.Identity()
    else:
        learner.module.block[0].register_forward_hook(lambda *_: seen.append(None))
    with pytest.warns(RuntimeWarning, match="changed after its first clone.* wrap it anew") as warned:
        after = learner(x)
    assert warned[0].filename == __file__
    assert len(seen) == (change == "hook")
    expected = {"attribute": 2 * before, "part": learner.module(x), "hook": before}[change]
    torch.testing.assert_close(after, expected, rtol=1e-11, atol=1e-11)
    learner(x)  # no second warning
    assert len(fused_calls) == 1


class OwnClone(l2l.algorithms.MAML):
    """As public code has it: its clone() does not know of recordings."""

    def clone(self, first_order=None):
        return OwnClone(l2l.clone_module(self.module), lr=self.lr, first_order=bool(first_order))


class OwnLearner(l2l.algorithms.BaseLearner):
    """Makes itself of a bare BaseLearner, and adapts by maml_update."""

    def __init__(self, model, lr):
        super().__init__()
        self.module, self.lr = model, lr

    def clone(self):
        return OwnLearner(l2l.clone_module(self.module), self.lr)

    def adapt(self, loss):
        gradients = torch.autograd.grad(loss, list(self.module.parameters()), create_graph=True)
        self.module = l2l.maml_update(self.module, self.lr, gradients)


@pytest.mark.parametrize("learner", [OwnClone, OwnLearner])
def test_a_subclass_with_its_own_clone_shares_one_recording(monkeypatch, learner, fused_calls):
    made = []

    def counting(*args, record=programs.record):
        made.append(None)
        return record(*args)

    monkeypatch.setattr(programs, "record", counting)
    model, expected = build("nested"), build("nested")
    losses = two_tasks(learner(model, LR), "nested", 2)
    assert len(made) == 1
    assert len(fused_calls) > 20
    torch.testing.assert_close(losses, two_tasks(Oracle(expected), "nested", 2), rtol=1e-10, atol=1e-10)
    assert_same_gradients(model, expected)


def test_a_changed_module_is_fused_again_when_it_is_wrapped_anew(fused_calls):
    model = build("nested")
    recorded(l2l.algorithms.MAML(model, lr=LR), "nested", fused_calls)
    model.note = "changed"
    recorded(l2l.algorithms.MAML(model, lr=LR), "nested", fused_calls)
    l2l.algorithms.MAML(model, lr=LR).clone()(images("nested", 1))
    assert len(fused_calls) == 4


def test_deep_copies_share_recordings(monkeypatch):
    made = []

    def counting(*args, record=programs.record):
        made.append(None)
        return record(*args)

    monkeypatch.setattr(programs, "record", counting)
    maml = l2l.algorithms.MAML(build("nested"), lr=LR)
    x = images("nested", 0)
    out = maml(x)
    torch.testing.assert_close(copy.deepcopy(maml)(x), out, rtol=1e-11, atol=1e-11)
    assert len(made) == 1


def test_an_adapted_clone_is_not_kept_by_the_recordings():
    maml = l2l.algorithms.MAML(build("nested"), lr=LR)
    learner = maml.clone()
    learner(images("nested", 0))
    weight = weakref.ref(learner.head.weight)
    del learner
    gc.collect()
    assert weight() is None


# --- helpers


def test_maml_update_is_a_step_of_adapt():
    model, x = build("sequential"), images("", 0)
    learner = l2l.algorithms.MAML(model, lr=LR).clone()
    learner.adapt(loss_of(learner(x)))
    twin = l2l.clone_module(model)
    gradients = torch.autograd.grad(loss_of(twin(x)), list(twin.parameters()), create_graph=True)
    assert l2l.algorithms.maml_update(twin, lr=LR, grads=gradients) is twin
    for actual, wanted in zip(twin.parameters(), learner.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="the module has 10 parameters, got 1 updates"):
        l2l.update_module(twin, [None])


def test_detach_module_cuts_a_clone_off():
    model = build("a learned buffer")
    twin = l2l.clone_module(model)
    assert twin.shift is not model.shift
    assert twin.scale is model.scale
    l2l.detach_module(twin)
    assert len(learned(twin)) == 0
    assert list(learned(model)) == ["linear.weight", "linear.bias", "shift"]


def test_every_part_of_a_clone_is_its_own():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential())
    model.register_module("none", None)
    twin = l2l.clone_module(model)
    assert twin.none is None
    assert not set(twin.modules()) & set(model.modules())


def test_updates_are_read_from_tensors():
    model = build("a learned buffer")
    twin = l2l.clone_module(model)
    updates = {name: torch.full_like(tensor, 2.0) for name, tensor in learned(twin).items() if name != "linear.bias"}
    for name, tensor in learned(twin).items():
        if name in updates:
            tensor.update = updates[name]
    before = learned(twin)
    memo = {}
    assert l2l.maml_update(twin, lr=LR) is twin
    for name, tensor in learned(twin).items():
        torch.testing.assert_close(tensor, before[name] + updates.get(name, 0.0))
    l2l.update_module(twin, [None, None], memo=memo)
    assert memo == {}
    assert all(getattr(tensor, "update", None) is None for tensor in before.values())


def test_modules_that_share_a_parameter_are_cloned_with_one_memo():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    memo = {}
    one, two = (l2l.clone_module(each, memo=memo) for each in (first, second))
    assert one.weight is two.weight
    assert one.weight is not first.weight
    assert set(memo) == {first.weight, first.bias, second.bias}
    assert l2l.clone_module(None) is None


def test_meta_sgd_update_reads_gradients_and_rates():
    model = build("linear")
    twins = [l2l.clone_module(model) for _ in range(2)]
    rates = [torch.rand_like(parameter) for parameter in model.parameters()]
    gradients = [torch.rand_like(parameter) for parameter in model.parameters()]
    l2l.algorithms.meta_sgd_update(twins[0], rates, gradients)
    for parameter, rate, gradient in zip(twins[1].parameters(), rates, gradients, strict=True):
        parameter.retain_grad()
        parameter.grad, parameter._lr = gradient, rate
    l2l.algorithms.meta_sgd_update(twins[1])
    parameters = zip(*(each.parameters() for each in (*twins, model)), rates, gradients, strict=True)
    for given, read, start, rate, gradient in parameters:
        torch.testing.assert_close(given, start - rate * gradient)
        assert torch.equal(given, read)
    with pytest.raises(ValueError, match="the module has 4 parameters, got 3 rates"):
        l2l.algorithms.meta_sgd_update(twins[0], rates[:3], gradients)


def test_detached_clones_may_stay_trainable():
    model = build("a learned buffer")
    twin = l2l.clone_module(model)
    twin.linear.bias.detach_()
    l2l.detach_module(twin, keep_requires_grad=True)
    assert list(learned(twin)) == ["linear.weight", "shift"]
    assert all(tensor.is_leaf for tensor in twin.parameters())


def test_recurrent_clones_read_their_own_weights():
    lstm = nn.LSTM(2, 3)
    twin = l2l.clone_module(lstm)
    l2l.update_module(twin, [torch.ones_like(parameter) for parameter in twin.parameters()])
    moved = copy.deepcopy(lstm)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 1
    x = torch.randn(4, 1, 2)
    torch.testing.assert_close(twin(x)[0], moved(x)[0])


def test_small_helpers():
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    boxed = l2l.magic_box(3 * x)
    assert boxed.tolist() == [1, 1]
    boxed.sum().backward()
    assert x.grad.tolist() == [3, 3]
    assert l2l.magic_box("x") == "x"
    assert l2l.accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75
    with pytest.raises(ValueError, match=r"targets \[N\], got \[4, 4\] and \[3\]"):
        l2l.accuracy(torch.eye(4), torch.arange(3))
    named = l2l.clone_named_parameters({"a": x})
    assert named["a"].grad_fn is not None
    assert l2l.utils.flatten_config({"a": {"b": 1}, "c": argparse.Namespace(d=2)}) == {"a.b": 1, "c.d": 2}


def test_distributions_are_cloned_and_detached():
    mean = torch.zeros(2, requires_grad=True)
    normal = torch.distributions.Normal(mean, 1.0)
    clone = l2l.clone_distribution(torch.distributions.Independent(normal, 1))
    clone.mean.sum().backward()
    assert mean.grad.tolist() == [1, 1]
    assert clone.base_dist.loc is not mean
    assert not l2l.detach_distribution(clone).mean.requires_grad
    assert mean.requires_grad

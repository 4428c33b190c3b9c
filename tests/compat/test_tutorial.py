"""The drop-in for the tutorial's class follows the tutorial."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from tutorial_batches import make_batch

from maml_fast.compat import MetaLearner
from maml_fast.models import TutorialNet

SHAPES = [
    *[(64, 1, 3, 3), (64,), (64,), (64,)],
    *[(64, 64, 3, 3), (64,), (64,), (64,)] * 3,
    *[(5, 64), (5,)],
]
BIASES_UNDER_BATCH_NORM = (1, 5, 9)  # the fourth block has a ReLU between


@pytest.fixture
def batch():
    return make_batch(2, 1, torch.Generator().manual_seed(0))


@pytest.fixture
def meta():
    torch.manual_seed(0)
    return MetaLearner().double()


def one(batch):
    return tuple(part[0] for part in batch)


def test_defaults_and_attributes():
    meta = MetaLearner()
    assert (meta.update_step, meta.update_step_test) == (5, 5)
    assert (meta.base_lr, meta.meta_lr, meta.inner_lr, meta.outer_lr) == (4e-2, 2e-4, 0.4, 1e-2)
    assert isinstance(meta.meta_optim, torch.optim.Adam)
    assert meta.meta_optim.param_groups[0]["lr"] == 2e-4


def test_parameters_are_the_tutorials_list(meta):
    parameters = meta.net.parameters()
    assert isinstance(parameters, nn.ParameterList)
    assert len(parameters) == 18
    assert [tuple(parameter.shape) for parameter in parameters] == SHAPES
    assert all(listed is again for listed, again in zip(parameters, meta.net.vars, strict=True))
    assert [id(p) for p in meta.meta_optim.param_groups[0]["params"]] == [id(p) for p in parameters]
    assert [id(p) for p in meta.parameters()] == [id(p) for p in parameters]


def test_runs_on_the_fused_op(meta, batch):
    meta.finetunning(*one(batch))
    assert len(meta._maml[0].fusion.fused) == 4


def test_initial_values_are_the_tutorials():
    torch.manual_seed(3)
    net = MetaLearner().net
    torch.manual_seed(3)
    for position, parameter in enumerate(net.parameters()):
        if parameter.dim() == 4:
            torch.testing.assert_close(parameter, nn.init.kaiming_normal_(torch.empty(parameter.shape)), rtol=0, atol=0)
        else:
            wanted = 1.0 if position % 4 == 2 or position == 16 else 0.0
            assert (parameter == wanted).all()


def test_fifty_iterations_follow_the_tutorial(monkeypatch):
    """On a narrow net; on the tutorial's own, from its own start, in test_tutorial_trajectory.py."""
    monkeypatch.setattr(TutorialNet, "hidden", 8)
    torch.manual_seed(0)
    meta = MetaLearner().double()
    leave_symmetric_start(meta)
    tutorial = oracles.Tutorial(meta.net.parameters())
    start = [parameter.detach().clone() for parameter in meta.net.parameters()]
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        batch = make_batch(2, 1, generator)
        accuracies, losses = meta(*batch)
        expected_accuracies, expected_losses = tutorial.train(*batch)
        np.testing.assert_array_equal(accuracies, expected_accuracies)
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    test = one(make_batch(1, 3, generator))
    np.testing.assert_array_equal(meta.finetunning(*test), tutorial.test(*test))
    parameters = zip(meta.net.parameters(), tutorial.parameters, start, strict=True)
    for position, (ours, theirs, before) in enumerate(parameters):
        if position not in BIASES_UNDER_BATCH_NORM:
            moved, wanted = ours.detach() - before, theirs.detach() - before
            assert wanted.abs().max() > 1e-3
            assert (moved - wanted).abs().max() < 1e-6 * wanted.abs().max(), position


def leave_symmetric_start(meta):
    """Move the parameters off the tutorial's initial values.

    There the classifier's rows are equal. So every class ties at step 0, and the gradients of a channel that is dead in
    the last block are zero but for rounding noise, which Adam amplifies until even two runs of the original part ways.
    """
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in meta.net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def test_first_iterations_from_the_tutorials_own_start(meta, batch):
    tutorial = oracles.Tutorial(meta.net.parameters())
    for _ in range(2):
        _, losses = meta(*batch)
        np.testing.assert_allclose(losses, tutorial.train(*batch)[1], rtol=1e-9)


def test_results_are_arrays_with_a_number_for_every_step(meta, batch):
    accuracies, losses = meta(*batch)
    assert isinstance(accuracies, np.ndarray)
    assert isinstance(losses, np.ndarray)
    assert accuracies.shape == losses.shape == (6,)
    assert losses[1] > 0
    assert isinstance(meta.finetunning(*one(batch)), np.ndarray)


def test_attributes_changed_after_construction_are_obeyed(meta, batch):
    leave_symmetric_start(meta)
    meta.base_lr, meta.update_step, meta.update_step_test = 0.01, 2, 3
    meta.meta_optim = torch.optim.SGD(meta.net.parameters(), lr=0.5)
    tutorial = oracles.Tutorial(meta.net.parameters(), base_lr=0.01, update_step=2, update_step_test=3)
    tutorial.optimizer = torch.optim.SGD(tutorial.parameters, lr=0.5)
    accuracies, losses = meta(*batch)
    expected_accuracies, expected_losses = tutorial.train(*batch)
    np.testing.assert_array_equal(accuracies, expected_accuracies)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    np.testing.assert_array_equal(meta.finetunning(*one(batch)), tutorial.test(*one(batch)))
    for ours, theirs in zip(meta.net.parameters(), tutorial.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_one_inner_step_works_where_the_original_fails(meta, batch):
    meta.update_step = 1
    before = [parameter.detach().clone() for parameter in meta.net.parameters()]
    _, losses = meta(*batch)
    assert losses.shape == (2,)
    assert any((now != then).any() for now, then in zip(meta.net.parameters(), before, strict=True))


def test_finetunning_changes_nothing(meta, batch):
    before = copy.deepcopy(meta.state_dict())
    first = meta.finetunning(*one(batch))
    np.testing.assert_array_equal(meta.finetunning(*one(batch)), first)
    assert all(torch.equal(value, before[name]) for name, value in meta.state_dict().items())
    assert all(parameter.grad is None for parameter in meta.parameters())


def test_net_runs_with_parameters_given_to_it(meta, batch):
    x = batch[2][0]
    others = [parameter + 0.1 for parameter in meta.net.parameters()]
    torch.testing.assert_close(meta.net(x, params=others), oracles.TUTORIAL(others, x))
    torch.testing.assert_close(meta.net(x, meta.net.parameters(), bn_training=True), meta.net(x))


class OriginalNet(nn.Module):
    """In the tutorial's manner: a list of parameters, statistics that batch norm updates, functions in forward."""

    def __init__(self, parameters):
        super().__init__()
        self.vars = nn.ParameterList(parameters)
        self.vars_bn = nn.ParameterList(
            [nn.Parameter(torch.zeros(64), requires_grad=False) for _ in range(8)]  # mean, variance, mean, ...
        )

    def forward(self, x, params=None):
        params = list(self.vars if params is None else params)
        for block in range(4):
            weight, bias, gamma, beta = params[4 * block : 4 * block + 4]
            x = F.conv2d(x, weight, bias, stride=2, padding=2)
            if block == 3:
                x = F.relu(x, inplace=True)
            x = F.batch_norm(x, self.vars_bn[2 * block], self.vars_bn[2 * block + 1], gamma, beta, training=True)
            x = F.max_pool2d(x, kernel_size=2)
            if block < 3:
                x = F.relu(x, inplace=True)
        return F.linear(x.view(x.size(0), -1), *params[-2:])

    def parameters(self):
        return self.vars


def test_the_originals_net_can_take_the_place_of_ours(meta, batch):
    leave_symmetric_start(meta)
    other = copy.deepcopy(meta)
    other.net = OriginalNet(copy.deepcopy(meta.net.parameters())).double()
    other.meta_optim = torch.optim.Adam(other.net.parameters(), lr=other.meta_lr)
    for ours, theirs in zip(meta(*batch), other(*batch), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert (other.net.vars_bn[0] == 0).all()
    for position, (ours, theirs) in enumerate(zip(meta.net.parameters(), other.net.parameters(), strict=True)):
        if position not in BIASES_UNDER_BATCH_NORM:
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_state_dicts_of_the_original_load(meta):
    leave_symmetric_start(meta)
    original = MetaLearner()
    original.net = OriginalNet([parameter.detach().clone() for parameter in meta.net.parameters()])
    loaded = MetaLearner().double()
    loaded.load_state_dict(original.state_dict())
    for ours, theirs in zip(loaded.net.parameters(), meta.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    loaded.load_state_dict(meta.state_dict())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda meta: pickle.loads(pickle.dumps(meta))])
def test_copies_train_on_their_own(meta, batch, again):
    meta(*batch)
    twin = again(meta)
    for ours, theirs in zip(meta(*batch), twin(*batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(meta.net.parameters(), twin.net.parameters(), strict=True):
        assert ours is not theirs
        assert torch.equal(ours, theirs)


def test_state_holds_the_net_alone(meta, batch):
    meta(*batch)
    stream = io.BytesIO()
    torch.save(meta.state_dict(), stream)
    stream.seek(0)
    assert list(torch.load(stream, weights_only=True)) == [f"net.{name}" for name, _ in meta.net.named_parameters()]


def test_single_precision_as_the_tutorial_trains():
    torch.manual_seed(0)
    meta = MetaLearner().to("cpu")
    batch = [part.float() if part.is_floating_point() else part for part in make_batch(2, 1, torch.Generator())]
    accuracies, losses = meta(*batch)
    assert accuracies.dtype == losses.dtype == np.float64
    assert np.isfinite(losses).all()


def with_part(batch, index, part):
    return tuple(part if i == index else kept for i, kept in enumerate(batch))


BAD_BATCHES = {
    "too few axes": (lambda b: with_part(b, 0, b[0][0]), ValueError, "x_spt"),
    "image size": (lambda b: (b[0][..., :20, :20], b[1], b[2][..., :20, :20], b[3]), ValueError, "28"),
    "tasks": (lambda b: with_part(b, 2, b[2][:1]), ValueError, "x_qry"),
    "labels": (lambda b: with_part(b, 3, b[3] + 5), ValueError, "y_qry"),
    "float labels": (lambda b: with_part(b, 1, b[1].double()), TypeError, "y_spt"),
    "bytes": (lambda b: with_part(b, 0, b[0].byte()), TypeError, "x_spt"),
    "single precision": (lambda b: (b[0].float(), b[1], b[2].float(), b[3]), ValueError, "float32"),
    "NaN": (lambda b: with_part(b, 0, b[0] * torch.nan), ValueError, "NaN"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_bad_batches(meta, batch, case):
    spoil, error, names = BAD_BATCHES[case]
    before = copy.deepcopy(meta.state_dict())
    with pytest.raises(error, match=names):
        meta(*spoil(batch))
    assert all(torch.equal(value, before[name]) for name, value in meta.state_dict().items())


def test_bad_calls(meta, batch):
    with pytest.raises(ValueError, match="one task"):
        meta.finetunning(*batch)
    with pytest.raises(ValueError, match="bn_training"):
        meta.net(batch[0][0], bn_training=False)
    with pytest.raises(ValueError, match="18"):
        meta.net(batch[0][0], params=list(meta.net.parameters())[:-1])
    meta.update_step = -1
    with pytest.raises(ValueError, match="-1"):
        meta(*batch)

"""Bad input to MAML: one clear error each, before anything has changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import conv_net, make_episodes
from torch import nn

from maml_fast import MAML, evaluate
from maml_fast.models import Conv4

CONSTRUCTION = {
    "model": (lambda: MAML(torch.relu), TypeError, r"nn\.Module.*built-in"),
    "model class": (lambda: MAML(nn.Linear), TypeError, "nn.Module"),
    "order 3": (lambda: MAML(conv_net(), order=3), ValueError, "order must be 1 .* or 2, got 3"),
    "order true": (lambda: MAML(conv_net(), order="2"), ValueError, "order"),
    "negative steps": (lambda: MAML(conv_net(), inner_steps=-1), ValueError, "inner_steps.*-1"),
    "half a step": (lambda: MAML(conv_net(), inner_steps=1.5), TypeError, "inner_steps.*1.5"),
    "loss": (lambda: MAML(conv_net(), loss_fn="mse"), TypeError, "loss_fn.*'mse'"),
    "loss class": (
        lambda: MAML(conv_net(), loss_fn=nn.CrossEntropyLoss),
        TypeError,
        r"loss_fn must be a function of logits and targets, got the class Cross.*an instance, CrossEntropyLoss\(",
    ),
    "batch norm": (
        lambda: MAML(conv_net(), batch_norm="group"),
        ValueError,
        "'batch', 'running'.*got 'group'",
    ),
    "no running statistics": (lambda: MAML(Conv4(hidden=2), batch_norm="running"), ValueError, "features.0.norm"),
    "no parameters": (lambda: MAML(nn.ReLU()), ValueError, "nothing to adapt.*no parameters"),
    "all frozen": (lambda: MAML(conv_net().requires_grad_(False)), ValueError, "frozen"),
    "unknown name": (lambda: MAML(conv_net(), adapted=["7.weight"]), ValueError, "'7.weight'.*0.weight.*6.bias"),
    "unknown prefix": (lambda: MAML(conv_net(), adapted="tail"), ValueError, "'tail'"),
    "nothing chosen": (lambda: MAML(conv_net(), adapted=lambda name: False), ValueError, "chooses no parameter"),
    "empty list": (lambda: MAML(conv_net(), adapted=[]), ValueError, "chooses no parameter"),
    "module as choice": (lambda: MAML(conv_net(), adapted=[nn.Linear(1, 1)]), TypeError, "adapt.*Linear"),
    "number as choice": (lambda: MAML(conv_net(), adapted=3), TypeError, "adapt.*3"),
    "negative rate": (lambda: MAML(conv_net(), inner_lr=-0.1), ValueError, "inner_lr.*-0.1"),
    "rate NaN": (lambda: MAML(conv_net(), inner_lr=float("nan")), ValueError, "inner_lr.*nan"),
    "tensor of NaN": (lambda: MAML(conv_net(), inner_lr=torch.tensor(torch.nan)), ValueError, "inner_lr.*nan"),
    "negative tensor": (lambda: MAML(conv_net(), inner_lr=torch.tensor(-0.4)), ValueError, "inner_lr.*-0.4"),
    "rate text": (lambda: MAML(conv_net(), inner_lr="0.1"), TypeError, "inner_lr.*'0.1'"),
    "rate none": (lambda: MAML(conv_net(), inner_lr=None), TypeError, "inner_lr.*None"),
    "integer rate": (lambda: MAML(conv_net(), inner_lr=torch.tensor(1)), TypeError, "inner_lr.*int64"),
    "rate shape": (lambda: MAML(conv_net(), inner_lr=torch.rand(7)), ValueError, r"inner_lr of shape \(7,\).*0.weight"),
    "rates missing": (lambda: MAML(conv_net(), inner_lr={"0": 0.1}), ValueError, "no rate for 1.weight"),
    "rates unknown": (lambda: MAML(conv_net(), inner_lr={"*": 0.1, "9": 0.1}), ValueError, r"inner_lr\['9'\]"),
    "rates not adapted": (
        lambda: MAML(conv_net(), inner_lr={"*": 0.1, "0": 0.1}, adapted="6"),
        ValueError,
        r"inner_lr\['0'\]",
    ),
    "rates negative": (lambda: MAML(conv_net(), inner_lr={"*": -1.0}), ValueError, r"inner_lr\['\*'\].*-1"),
    "rates shape": (lambda: MAML(conv_net(), inner_lr={"*": torch.rand(3)}), ValueError, r"inner_lr\['\*'\].*shape"),
    "rates keys": (lambda: MAML(conv_net(), inner_lr={0: 0.1}), TypeError, "inner_lr.*0"),
    "rates empty": (lambda: MAML(conv_net(), inner_lr={}), ValueError, "no rate for 0.weight"),
}


@pytest.mark.parametrize("case", CONSTRUCTION)
def test_construction(case):
    make, error, message = CONSTRUCTION[case]
    with pytest.raises(error, match=message):
        make()


def with_nan(x):
    x = x.clone()
    x[1, 2, 0, 3, 3] = torch.nan
    return x


EPISODES = {
    "three tensors": (lambda e: tuple(e)[:3], TypeError, "four tensors.*3"),
    "one tensor": (lambda e: e.x_spt, TypeError, "four tensors.*Tensor"),
    "nothing": (lambda e: None, TypeError, "four tensors.*NoneType"),
    "arrays": (lambda e: e._replace(x_spt=e.x_spt.numpy()), TypeError, "x_spt.*ndarray"),
    "no task axis": (lambda e: e._replace(x_spt=e.x_spt[0]), ValueError, "x_spt"),
    "tasks": (lambda e: e._replace(x_qry=e.x_qry[:2], y_qry=e.y_qry[:2]), ValueError, "number of episodes"),
    "support labels": (lambda e: e._replace(y_spt=e.y_spt[:, :4]), ValueError, "5 images but 4 labels"),
    "query labels": (lambda e: e._replace(y_qry=e.y_qry[:, :4]), ValueError, "10 images but 4 labels"),
    "image sizes": (lambda e: e._replace(x_qry=e.x_qry[..., :9]), ValueError, "same shape"),
    "no images": (lambda e: e._replace(x_qry=e.x_qry[:, :0], y_qry=e.y_qry[:, :0]), ValueError, "empty"),
    "bytes": (lambda e: e._replace(x_spt=e.x_spt.byte()), TypeError, "x_spt.*uint8"),
    "single precision": (lambda e: e.to(torch.float32), ValueError, "x_spt is torch.float32, the model torch.float64"),
    "mixed precision": (lambda e: e._replace(x_qry=e.x_qry.float()), ValueError, "x_qry is torch.float32"),
    "float labels": (lambda e: e._replace(y_qry=e.y_qry.double()), TypeError, "y_qry.*float64"),
    "short labels": (lambda e: e._replace(y_spt=e.y_spt.int()), TypeError, "y_spt.*int32"),
    "label too large": (lambda e: e._replace(y_spt=e.y_spt + 1), ValueError, "y_spt holds.* label 5"),
    "query label too large": (lambda e: e._replace(y_qry=e.y_qry + 5), ValueError, "y_qry holds.* label"),
    "label negative": (lambda e: e._replace(y_qry=e.y_qry - 5), ValueError, "y_qry holds label -"),
    "label below zero": (lambda e: e._replace(y_spt=e.y_spt * 0 - 7), ValueError, "y_spt holds label -7"),
    "one-hot labels": (lambda e: e._replace(y_spt=F.one_hot(e.y_spt, 5)), ValueError, "y_spt"),
    "NaN": (lambda e: e._replace(x_spt=with_nan(e.x_spt)), ValueError, "x_spt.*image 2 of episode 1"),
    "infinity": (lambda e: e._replace(x_qry=e.x_qry / 0), ValueError, "x_qry holds NaN or infinity"),
    "other device": (lambda e: e.to("meta"), ValueError, "x_spt is on meta, the model on cpu"),
    "two devices": (lambda e: e._replace(y_qry=e.y_qry.to("meta")), ValueError, "one device"),
}


@pytest.mark.parametrize("case", EPISODES)
def test_episodes(case):
    spoil, error, message = EPISODES[case]
    maml = MAML(conv_net(), inner_lr=0.1, inner_steps=2)
    before = copy.deepcopy(maml.state_dict())
    episodes = make_episodes()
    with pytest.raises(error, match=message):
        maml(spoil(episodes))
    assert all(torch.equal(value, before[name]) for name, value in maml.state_dict().items())
    assert maml(episodes).loss.isfinite()


SUPPORT = {
    "array": (lambda x, y: (x.numpy(), y), TypeError, "x_spt.*ndarray"),
    "labels as a list": (lambda x, y: (x, y.tolist()), TypeError, r"y_spt.*\[\[0, 1,"),
    "no task axis": (lambda x, y: (x[0], y[0]), ValueError, "y_spt"),
    "tasks": (lambda x, y: (x, y[:2]), ValueError, r"y_spt \[2, 5\]"),
    "images": (lambda x, y: (x[:, :4], y), ValueError, r"x_spt \[3, 4,"),
    "empty": (lambda x, y: (x[:0], y[:0]), ValueError, r"x_spt \[0,"),
    "dtype": (lambda x, y: (x.float(), y), ValueError, "x_spt is torch.float32"),
    "device": (lambda x, y: (x.to("meta"), y.to("meta")), ValueError, "x_spt is on meta"),
    "two devices": (lambda x, y: (x, y.to("meta")), ValueError, "y_spt on meta"),
    "float labels": (lambda x, y: (x, y.double()), ValueError, "y_spt.*float64"),
    "label too large": (lambda x, y: (x, y + 1), ValueError, "y_spt holds the label 5"),
    "NaN": (lambda x, y: (with_nan(x), y), ValueError, "x_spt.*image 2 of episode 1"),
}


@pytest.mark.parametrize("case", SUPPORT)
def test_adapt(case):
    spoil, error, message = SUPPORT[case]
    episodes = make_episodes()
    with pytest.raises(error, match=message):
        MAML(conv_net()).adapt(*spoil(episodes.x_spt, episodes.y_spt))


PREDICTION = {
    "no mapping": (lambda fast, x: (list(fast.values()), x), TypeError, "fast.*list"),
    "unknown name": (lambda fast, x: ({**fast, "7.weight": x}, x), ValueError, "'7.weight'"),
    "no task axis": (lambda fast, x: ({name: w[0] for name, w in fast.items()}, x), ValueError, "0.weight"),
    "tasks": (lambda fast, x: (fast, x[:2]), ValueError, r"0.weight.*\[2, 8,"),
    "no tensor": (lambda fast, x: ({**fast, "0.bias": 1.0}, x), ValueError, "0.bias.*float"),
    "images": (lambda fast, x: (fast, x[0, 0, 0]), ValueError, "x_qry"),
    "no images": (lambda fast, x: (fast, x[:, :0]), ValueError, "x_qry"),
    "array": (lambda fast, x: (fast, x.numpy()), TypeError, "x_qry.*ndarray"),
    "dtype": (lambda fast, x: (fast, x.float()), ValueError, "x_qry is torch.float32"),
    "NaN": (lambda fast, x: (fast, with_nan(x)), ValueError, "x_qry.*image 2 of episode 1"),
    "device": (lambda fast, x: (fast, x.to("meta")), ValueError, "x_qry is on meta"),
}


@pytest.mark.parametrize("case", PREDICTION)
def test_predict(case):
    spoil, error, message = PREDICTION[case]
    maml, episodes = MAML(conv_net()), make_episodes()
    fast = maml.adapt(episodes.x_spt, episodes.y_spt)
    with pytest.raises(error, match=message):
        maml.predict(*spoil(fast, episodes.x_qry))


CALLS = {
    "steps": (lambda m, e: m(e, inner_steps=-2), ValueError, "inner_steps.*-2"),
    "steps of adapt": (lambda m, e: m.adapt(e.x_spt, e.y_spt, inner_steps="2"), TypeError, "inner_steps.*'2'"),
    "no episodes": (lambda m, e: evaluate(m, [e], n_episodes=0), ValueError, "episodes.*0"),
    "half an episode": (lambda m, e: evaluate(m, [e], n_episodes=2.5), TypeError, "episodes.*2.5"),
    "sampler ends": (lambda m, e: evaluate(m, [e], n_episodes=4), ValueError, "ended after 3 of 4"),
    "no sampler": (lambda m, e: evaluate(m, None, n_episodes=4), TypeError, "sampler.*NoneType"),
    "one batch": (lambda m, e: evaluate(m, e, n_episodes=3), TypeError, "four tensors"),
    "no MAML": (lambda m, e: evaluate(m.model, [e], n_episodes=3), TypeError, "MAML.*Sequential"),
    "no episodes at all": (lambda m, e: evaluate(m, [(None,) * 4], 3), TypeError, "x_spt must be a torch tensor"),
    "steps of evaluate": (lambda m, e: evaluate(m, [e], 3, inner_steps=-1), ValueError, "inner_steps.*-1"),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(case):
    call, error, message = CALLS[case]
    with pytest.raises(error, match=message):
        call(MAML(conv_net()), make_episodes())


def test_a_flag_is_no_number_of_steps_whatever_was_planned_before():
    maml, episodes = MAML(conv_net()), make_episodes()
    maml(episodes, inner_steps=1)
    with pytest.raises(TypeError, match="inner_steps must be an integer, got True"):
        maml(episodes, inner_steps=True)


def test_steps_to_record_may_be_numpys():
    maml, episodes = MAML(conv_net(), inner_lr=0.1, inner_steps=2), make_episodes()
    for steps in (np.array([0, 1]), (np.int64(0), 1), {0, 1}, [1, 0]):
        assert len(maml(episodes, per_step=steps).query_losses) == 3
    assert len(maml(episodes, per_step=np.bool_(True)).query_losses) == 3
    assert maml(episodes, per_step=[]).query_losses is None


LOSSES = {
    "vector": (lambda logits, y: F.cross_entropy(logits, y, reduction="none"), ValueError, r"scalar.*\[5\]"),
    "number": (lambda logits, y: 1.0, ValueError, "scalar.*float"),
    "constant": (lambda logits, y: logits.detach().sum(), RuntimeError, "does not depend on any adapted parameter"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_loss_functions(case):
    loss_fn, error, message = LOSSES[case]
    with pytest.raises(error, match=message):
        MAML(conv_net(), loss_fn=loss_fn)(make_episodes())


def test_models_that_return_something_else():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(TypeError, match="one tensor of logits, got tuple"):
        MAML(Pair(4, 5).double())(make_episodes(shape=(4,)))


def test_errors_of_the_model_are_its_own():
    with pytest.raises((RuntimeError, ValueError), match=r"channels|Cin"):  # torch's, the fused op's
        MAML(conv_net())(make_episodes(shape=(3, 10, 10)))

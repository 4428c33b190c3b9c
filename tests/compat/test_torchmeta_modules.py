"""The drop-in for torchmeta's modules: layers that run with other parameters, and what of them adapts."""

from __future__ import annotations

import copy
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from small import gradient, make_episodes
from torch import nn
from torch.func import functional_call

import maml_fast as mf
from maml_fast.compat.torchmeta import modules
from maml_fast.compat.torchmeta._out import OUT
from maml_fast.compat.torchmeta.modules import (
    MetaBatchNorm2d,
    MetaConv2d,
    MetaLinear,
    MetaModule,
    MetaMultiheadAttention,
    MetaSequential,
)
from maml_fast.compat.torchmeta.utils.gradient_based import gradient_update_parameters

X = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
LAYERS = {
    "Linear": ((4, 3), (X,)),
    "Bilinear": ((4, 4, 3), (X, X)),
    "Conv1d": ((2, 3, 3), (X,)),
    "Conv2d": ((2, 3, 3), (X[..., None].expand(-1, -1, -1, 4),)),
    "Conv3d": ((2, 3, 3), (X[..., None, None].expand(-1, -1, -1, 4, 4),)),
    "BatchNorm1d": ((2,), (X,)),
    "BatchNorm2d": ((2,), (X[..., None],)),
    "BatchNorm3d": ((2,), (X[..., None, None],)),
    "LayerNorm": ((4,), (X,)),
    "Embedding": ((5, 3), (torch.arange(5),)),
    "EmbeddingBag": ((5, 3), (torch.arange(4)[None],)),
    "MultiheadAttention": ((4, 2), (X, X, X)),
}


def first(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", LAYERS)
def test_layer_runs_with_given_parameters(name):
    sizes, inputs = LAYERS[name]
    layer, plain = getattr(modules, f"Meta{name}")(*sizes), getattr(nn, name)(*sizes)
    plain.load_state_dict(layer.state_dict())
    assert isinstance(layer, getattr(nn, name))
    assert isinstance(layer, MetaModule)
    params = {key: 1.5 * each + 0.1 for key, each in layer.meta_named_parameters()}
    assert params.keys() == dict(plain.named_parameters()).keys()
    torch.testing.assert_close(first(layer(*inputs, params=params)), first(functional_call(plain, params, inputs)))
    torch.testing.assert_close(first(layer(*inputs)), first(plain(*inputs)))
    for own, wanted in zip(layer.buffers(), plain.buffers(), strict=True):
        assert torch.equal(own, wanted)


def test_parameters_that_are_not_given_are_its_own():
    layer, x = MetaLinear(4, 3), X[:, 0]
    torch.testing.assert_close(layer(x, params={"bias": torch.ones(3)}), F.linear(x, layer.weight, torch.ones(3)))


def test_attention_without_bias_and_in_double():
    layer = MetaMultiheadAttention(4, 2, bias=False, dtype=torch.float64)
    assert layer.out_proj.bias is None
    assert layer.out_proj.weight.dtype == torch.float64


class Mixed(MetaModule):
    """Layers that adapt and layers that do not."""

    def __init__(self):
        super().__init__()
        self.features = MetaSequential(MetaConv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = MetaLinear(64, 5)

    def forward(self, x, params=None):
        x = self.features(x, params=self.get_subdict(params, "features"))
        return self.classifier(x.flatten(1), params=self.get_subdict(params, "classifier"))


ADAPTING = ["features.0.weight", "features.0.bias", "classifier.weight", "classifier.bias"]


def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed().double()


def sequential() -> MetaSequential:
    torch.manual_seed(0)
    block = MetaSequential(MetaConv2d(1, 4, 3, padding=1), MetaBatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    return MetaSequential(block, nn.Flatten(), MetaLinear(100, 5)).double()


def test_only_meta_modules_adapt():
    assert [name for name, _ in mixed().meta_named_parameters()] == ADAPTING
    assert next(mixed().meta_named_parameters(prefix="net"))[0] == f"net.{ADAPTING[0]}"
    assert len(list(mixed().meta_parameters())) == 4


def test_parts_of_params():
    params = dict(mixed().meta_named_parameters())
    found = mixed().get_subdict(params, "features")
    assert list(found) == ["0.weight", "0.bias"]
    assert found["0.bias"] is params["features.0.bias"]
    assert list(mixed().get_subdict(params)) == ADAPTING
    assert mixed().get_subdict(None, "features") is None
    with pytest.warns(UserWarning, match="params has no entry for the submodule 'feat' of Mixed"):
        assert mixed().get_subdict(params, "feat") is None


# --- the inner loop, and MAML on the same model


def torchmetas_loop(model, episodes, order):
    """The mean query loss of the loop over the tasks that torchmeta's users write."""
    total = 0.0
    for x_spt, y_spt, x_qry, y_qry in zip(*episodes, strict=True):
        params = None
        for _ in range(2):
            loss = F.cross_entropy(model(x_spt, params=params), y_spt)
            params = gradient_update_parameters(model, loss, params, step_size=0.1, first_order=order == 1)
        total = total + F.cross_entropy(model(x_qry, params=params), y_qry)
    return total / len(episodes.x_spt)


def flat_gradient(loss, model):
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("make", [mixed, sequential])
def test_maml_has_the_loss_and_gradient_of_the_loop(make, order):
    model, episodes = make(), make_episodes()
    loss = torchmetas_loop(copy.deepcopy(model), episodes, order)
    plain = copy.deepcopy(model)
    expected = flat_gradient(torchmetas_loop(plain, episodes, order), plain)
    adapted = [name for name, _ in model.meta_named_parameters()]
    maml = mf.MAML(model, inner_lr=0.1, inner_steps=2, order=order, adapted=adapted)
    torch.testing.assert_close(maml(episodes).loss.detach(), loss.detach(), rtol=1e-12, atol=0)
    assert (gradient(maml, episodes) - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.native
def test_a_net_of_meta_modules_runs_natively():
    maml = mf.MAML(sequential(), inner_lr=0.1)
    maml(make_episodes())
    assert "inner loop: native" in maml.describe()


def test_step_sizes_by_name_and_as_a_tensor():
    model = MetaLinear(4, 2)
    loss = model(X[:, 0]).square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    by_name = gradient_update_parameters(model, loss, step_size={"weight": 0.5, "bias": torch.tensor(2.0)})
    torch.testing.assert_close(by_name["weight"], model.weight - 0.5 * gradients[0])
    loss = model(X[:, 0]).square().sum()
    one = gradient_update_parameters(model, loss, step_size=torch.tensor(2.0))
    torch.testing.assert_close(one["bias"], by_name["bias"])
    loss = model(X[:, 0]).square().sum()
    with pytest.raises(ValueError, match="step_size has no value for bias"):
        gradient_update_parameters(model, loss, step_size={"weight": 0.5})
    with pytest.raises(ValueError, match=r"loss must be one number, got a tensor of shape \[3, 2\]"):
        gradient_update_parameters(model, model(X[:, 0]))
    with pytest.raises(TypeError, match=r"model must be a MetaModule.*make it of the layers of compat.torchmeta"):
        gradient_update_parameters(nn.Linear(1, 1), loss)


# --- layers that adapt here and not there


def test_maml_warns_once_of_layers_that_torchmeta_does_not_adapt():
    with pytest.warns(UserWarning, match=r"does not adapt features.1.weight, features.1.bias, which") as caught:
        maml = mf.MAML(mixed(), inner_lr=0.1)
    maml(make_episodes())  # any further warning would fail the test
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_what_the_warning_advises_is_silent_and_makes_the_difference():
    episodes = make_episodes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {}
        for adapted in (("*",), tuple(ADAPTING)):
            maml = mf.MAML(mixed(), inner_lr=0.1, inner_steps=2, adapted=list(adapted))
            found[len(maml.adapted)] = gradient(maml, episodes)
        mf.MAML(sequential(), inner_lr=0.1)
    assert (found[6] - found[4]).norm() > 0.01 * found[4].norm()


def test_params_of_a_part_of_a_layer_leave_the_others() -> None:
    layer = MetaLinear(4, 3)
    weight = torch.randn(3, 4)
    torch.testing.assert_close(layer(X, params={"weight": weight}), F.linear(X, weight, layer.bias))


@pytest.mark.parametrize("name", OUT)
def test_what_is_out_says_so_and_what_remains(name: str) -> None:
    module, _, attribute = f"maml_fast.compat.torchmeta.{name}".rpartition(".")
    with pytest.raises(ImportError, match=re.escape(f"has no {name}: {OUT[name]}")):
        exec(f"from {module} import {attribute}", {})


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"torchmeta\.modules has no 'MetaNothing', only MetaBatchNorm1d, "):
        modules.MetaNothing  # noqa: B018

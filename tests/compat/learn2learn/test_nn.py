"""Layers of learn2learn, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maml_fast.compat.learn2learn import nn as l2l_nn
from maml_fast.compat.learn2learn.nn import metalayers


def test_small_layers():
    x = torch.randn(2, 3, 4)
    assert torch.equal(l2l_nn.Flatten()(x), x.flatten(1))
    assert torch.equal(l2l_nn.Lambda(lambda x, power: x**power)(x, power=2), x**2)
    assert torch.equal(l2l_nn.Scale((3, 4), alpha=0.5)(x), x / 2)
    assert [l2l_nn.Scale(shape).alpha.shape for shape in (None, 5)] == [(1,), (5,)]


def test_freezing():
    layer = nn.Linear(2, 2)
    assert l2l_nn.freeze(layer) is layer
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    assert all(parameter.requires_grad for parameter in l2l_nn.unfreeze(layer).parameters())


@pytest.mark.parametrize("psd", [False, True])
def test_a_kronecker_layer_is_the_product_of_its_factors(psd):
    layer = l2l_nn.KroneckerLinear(3, 2, psd=psd).double()
    x = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(layer(x), x)  # at first
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    left, right = (each.t() @ each if psd else each for each in (layer.left, layer.right))
    by_column = torch.kron(right.t().contiguous(), left) @ x.t().flatten() + layer.bias.t().flatten()
    torch.testing.assert_close(layer(x).t().flatten(), by_column)
    torch.testing.assert_close(layer(x.t().flatten()), by_column)
    torch.testing.assert_close(layer(x.expand(4, 3, 2))[2], layer(x))
    for wrong in (torch.ones(3, 3), torch.ones(5)):
        with pytest.raises(ValueError, match="x must"):
            layer(wrong)


def test_kronecker_cells():
    x, h, c = torch.randn(3, 2, 3)
    out, new = l2l_nn.KroneckerRNN(2, 3)(x, h)
    assert torch.equal(out, new)
    torch.testing.assert_close(new, torch.tanh(x + h))
    out, (h_new, c_new) = l2l_nn.KroneckerLSTM(2, 3)(x, (h, c))
    gate = torch.sigmoid(x + h)
    torch.testing.assert_close(c_new, gate * c + gate * torch.tanh(x + h))
    torch.testing.assert_close(out, gate * torch.tanh(c_new))
    assert out is h_new


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "own"])
def test_prototypes(distance):
    support, labels = torch.randn(6, 4), torch.tensor([3, 1, 3, 1, 1, 3])
    queries = torch.randn(5, 4)
    means = torch.stack([support[labels == label].mean(0) for label in (1, 3)])
    expected = {
        "euclidean": -(torch.cdist(queries, means) ** 2),
        "cosine": F.cosine_similarity(queries[:, None], means[None], dim=-1),
        "own": -(queries @ means.t()),
    }[distance]
    own = (lambda prototypes, queries: queries @ prototypes.t()) if distance == "own" else distance
    classifier = l2l_nn.PrototypicalClassifier(support, labels, distance=own)
    torch.testing.assert_close(classifier(queries), expected, rtol=1e-4, atol=1e-4)
    classifier = l2l_nn.PrototypicalClassifier(distance=own)
    with pytest.raises(RuntimeError, match="call fit_"):
        classifier(queries)
    classifier.fit_(support, labels)
    torch.testing.assert_close(classifier(queries), expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_distance():
    with pytest.raises(ValueError, match="distance must be 'euclidean', 'cosine' or a function, got 'manhattan'"):
        l2l_nn.PrototypicalClassifier(distance="manhattan")


def test_layers_are_replaced():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3)))
    inner = net[2][0]
    wrapped = metalayers.MetaModule(
        net, {nn.Linear: lambda linear: nn.Sequential(linear, nn.LayerNorm(3)), nn.ReLU: lambda relu: nn.GELU()}
    )
    assert wrapped.wrapped_module[2][0][0] is inner
    assert isinstance(wrapped.wrapped_module[1], nn.GELU)
    learned = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert learned == [f"wrapped_module.{place}.1.{what}" for place in ("0", "2.0") for what in ("weight", "bias")]
    x = torch.randn(2, 3)
    assert torch.equal(wrapped(x), net(x))


def test_parameters_are_transformed_and_kept():
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    weight, x = net[0].weight, torch.randn(4, 3)
    expected = torch.tanh(x @ (2 * weight).t() + 2 * net[0].bias)
    wrapped = metalayers.MetaModule(
        net,
        {nn.Linear: lambda linear: metalayers.ParameterTransform(linear, lambda _: l2l_nn.Scale(alpha=2.0))},
    )
    torch.testing.assert_close(wrapped(x), expected)
    wrapped(x).sum().backward()
    assert [parameter.grad is not None for parameter in wrapped.meta_parameters()] == [True, True]
    assert wrapped.module()[0].weight is weight
    assert weight.grad is None


def test_what_is_out_says_so():
    with pytest.raises(ImportError, match=r"no nn.SVClassifier: MetaOptNet's classifier .* is out"):
        from maml_fast.compat.learn2learn.nn import SVClassifier  # noqa: F401

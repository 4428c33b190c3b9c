"""Nets of linear layers: of images, of sine waves, of coordinates; and weights that are computed or shared."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from zoo.entry import Entry, Size, classes, coordinates, itself, sines


class OmniglotFC(nn.Module):
    """Finn et al. 2017, as learn2learn has it: Linear, batch norm, ReLU."""

    def __init__(self, inputs: int = 784, sizes: tuple[int, ...] = (256, 128, 64, 64), n_way: int = 5) -> None:
        super().__init__()
        widths = [inputs, *sizes]
        self.features = nn.Sequential(
            nn.Flatten(),
            *(
                nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o, momentum=0.999, eps=1e-3), nn.ReLU())
                for i, o in itertools.pairwise(widths)
            ),
        )
        self.classifier = nn.Linear(sizes[-1], n_way)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Module:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        if i:
            layers += [activation(), nn.Dropout(dropout)] if dropout else [activation()]
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


def siren(hidden: int = 256, depth: int = 3, channels: int = 3) -> nn.Module:
    """Sitzmann et al. 2020: maps coordinates to colors."""
    widths = [2, *[hidden] * depth, channels]
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        linear = nn.Linear(before, after)
        limit = 1 / before if i == 0 else math.sqrt(6 / before) / 30
        nn.init.uniform_(linear.weight, -limit, limit)
        layers += [linear, Sine()]
    return nn.Sequential(*layers[:-1])


class WithNorm(nn.Module):
    """An MLP whose weights are computed from others."""

    def __init__(self, norm: object, inputs: int = 784, hidden: int = 128, n_way: int = 5) -> None:
        super().__init__()
        self.fc1, self.fc2 = norm(nn.Linear(inputs, hidden)), norm(nn.Linear(hidden, hidden))
        self.out = nn.Linear(hidden, n_way)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class TiedAutoencoder(nn.Module):
    """The decoder's weight is the transpose of the encoder's."""

    def __init__(self, inputs: int = 784, hidden: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, hidden)
        self.bias = nn.Parameter(torch.zeros(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.t(), self.bias)


class TiedLayers(nn.Module):
    """One hidden layer that runs three times, under two names."""

    def __init__(self, inputs: int = 784, hidden: int = 128, n_way: int = 5) -> None:
        super().__init__()
        self.first, self.hidden, self.out = (
            nn.Linear(inputs, hidden),
            nn.Linear(hidden, hidden),
            nn.Linear(hidden, n_way),
        )
        self.again = self.hidden

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.flatten(1)))
        return self.out(F.relu(self.hidden(F.relu(self.again(F.relu(self.hidden(x)))))))


OMNIGLOT = Size({}, classes(5, 1, 28, 28), support=5, queries=75, tasks=32, steps=1)
FEW = {"support": 5, "queries": 7, "tasks": 2, "steps": 2}
SMALL = Size({"inputs": 64}, classes(5, 1, 8, 8), **FEW)
WAVES = Size({}, sines(), support=10, queries=10, tasks=25, steps=1)
FEW_WAVES = replace(WAVES, tasks=3, steps=2)

NETS = {
    "omniglot-fc": Entry("learn2learn's OmniglotFC: Linear, BatchNorm1d, ReLU", OmniglotFC, OMNIGLOT, SMALL, 0.1),
    "mlp": Entry("784-200-200-5, ReLU", partial(mlp, 784, 200, 200, 5), OMNIGLOT, replace(OMNIGLOT, **FEW), 0.1),
    "mlp-dropout": Entry(
        "784-200-200-5, ReLU, dropout",
        partial(mlp, 784, 200, 200, 5, dropout=0.2),
        OMNIGLOT,
        replace(OMNIGLOT, **FEW),
        0.1,
    ),
    "sine-relu": Entry(
        "sine waves: 1-40-40-1, ReLU, 25 tasks of 10 points",
        partial(mlp, 1, 40, 40, 1),
        WAVES,
        FEW_WAVES,
        0.01,
        F.mse_loss,
    ),
    "sine-relu-5-steps": Entry(
        "the same, 5 inner steps", partial(mlp, 1, 40, 40, 1), replace(WAVES, steps=5), FEW_WAVES, 0.01, F.mse_loss
    ),
    "sine-tanh": Entry(
        "sine waves: 1-64-64-1, tanh, 25 tasks of 10 points",
        partial(mlp, 1, 64, 64, 1, activation=nn.Tanh),
        WAVES,
        FEW_WAVES,
        0.01,
        F.mse_loss,
    ),
    "siren": Entry(
        "SIREN: four layers of 256 on 1024 pixels of 32x32, 4 tasks, 2 steps",
        siren,
        Size({}, coordinates(32, 3), support=1024, queries=1024, tasks=4, steps=2),
        Size({"hidden": 16}, coordinates(32, 3), support=12, queries=12, tasks=2, steps=2),
        1e-3,
        F.mse_loss,
    ),
    "weight-norm": Entry("784-128-128-5 with weight norm", partial(WithNorm, weight_norm), OMNIGLOT, SMALL, 0.1),
    "spectral-norm": Entry(
        "784-128-128-5 with spectral norm",
        partial(WithNorm, spectral_norm),
        OMNIGLOT,
        SMALL,
        0.1,
        writes_buffers=True,
    ),
    "tied-autoencoder": Entry(
        "autoencoder 784-64-784 with tied weights",
        TiedAutoencoder,
        Size({}, itself(784), support=5, queries=15, tasks=32, steps=1),
        Size({"inputs": 64, "hidden": 16}, itself(64), **FEW),
        0.1,
        F.mse_loss,
    ),
    "tied-layers": Entry("one layer three times, under two names", TiedLayers, OMNIGLOT, SMALL, 0.1),
}

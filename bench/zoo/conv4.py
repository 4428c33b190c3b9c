"""Conv4 as people write it: what follows a convolution, how the features become logits, and under which loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peers.nets import CONV4
from torch import Tensor, nn

from zoo import losses
from zoo.entry import Entry, Size, classes, values, yes_or_no

Layer = Callable[[int], nn.Module]  # of so many channels
Head = Callable[[int, int], nn.Module]  # of so many features and classes

_POOL = partial(nn.MaxPool2d, 2)


def conv_block(
    in_channels: int,
    out_channels: int,
    *,
    norm: Layer | None = nn.BatchNorm2d,
    activation: Callable[[], nn.Module] = nn.ReLU,
    pool: Callable[[], nn.Module] | None = _POOL,
    activation_first: bool = False,
    kernel: int = 3,
    stride: int = 1,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Convolution, norm, activation, pool."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2)]
    after = [activation()] if norm is None else [norm(out_channels), activation()]
    layers += after[::-1] if activation_first else after
    if pool is not None:
        layers.append(pool())
    if dropout:
        layers.append(nn.Dropout2d(dropout))
    return nn.Sequential(*layers)


class Conv4(nn.Module):
    """Vinyals et al. 2016: four blocks and a linear classifier."""

    def __init__(
        self,
        in_channels: int = 1,
        hidden: int = 64,
        image_size: int = 28,
        n_way: int = 5,
        depth: int = 4,
        head: Head = nn.Linear,
        **block: Any,
    ) -> None:
        super().__init__()
        channels = [in_channels, *[hidden] * depth]
        self.features = nn.Sequential(*(conv_block(i, o, **block) for i, o in itertools.pairwise(channels)))
        with torch.no_grad():
            features = self.flat(self.features(torch.zeros(2, in_channels, image_size, image_size))).shape[1]
        self.classifier = head(features, n_way)

    def flat(self, x: Tensor) -> Tensor:
        """Features [N, D] of [N, C, H, W]."""
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flat(self.features(x)))


class ByView(Conv4):
    def flat(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1)


class ByViewOfSize(Conv4):
    def flat(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


class ByLength(Conv4):
    def flat(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)


class ByMean(Conv4):
    def flat(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3])


class ByAdaptivePool(Conv4):
    def flat(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)


class Unrolled(nn.Module):
    """Every layer by name, activations and pools as functions."""

    def __init__(self, hidden: int = 64, image_size: int = 28, n_way: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.conv2, self.bn2 = nn.Conv2d(hidden, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.conv4, self.bn4 = nn.Conv2d(hidden, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.fc = nn.Linear(hidden * (image_size // 16) ** 2, n_way)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.max_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        x = F.max_pool2d(F.relu(self.bn4(self.conv4(x))), 2)
        return self.fc(torch.flatten(x, 1))


def in_one_sequence(hidden: int = 64, image_size: int = 28, n_way: int = 5) -> nn.Module:
    """All layers in one ``nn.Sequential``, pooled to one value of each channel at the end."""
    blocks = [layer for i in range(4) for layer in conv_block(hidden if i else 1, hidden)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(hidden, n_way))


def strided(hidden: int = 64, n_way: int = 5) -> nn.Module:
    """Finn et al. 2017 on Omniglot: strides in the place of pools, and the mean of what is left."""
    return ByMean(hidden=hidden, n_way=n_way, stride=2, pool=None)


def of_dragen1860(hidden: int = 64, n_way: int = 5) -> nn.Module:
    """The Omniglot net of dragen1860/MAML-Pytorch: ReLU before batch norm, a 2x2 convolution at the end."""
    return nn.Sequential(
        *(nn.Conv2d(1, hidden, 3, 2), nn.ReLU(), nn.BatchNorm2d(hidden)),
        *(nn.Conv2d(hidden, hidden, 3, 2), nn.ReLU(), nn.BatchNorm2d(hidden)),
        *(nn.Conv2d(hidden, hidden, 3, 2), nn.ReLU(), nn.BatchNorm2d(hidden)),
        *(nn.Conv2d(hidden, hidden, 2), nn.ReLU(), nn.BatchNorm2d(hidden)),
        nn.Flatten(),
        nn.Linear(hidden, n_way),
    )


class Stem(nn.Module):
    """A 7x7 convolution of stride 2 and a 3x3 pool before three blocks."""

    def __init__(self, hidden: int = 64, n_way: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, hidden, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(conv_block(hidden, hidden) for _ in range(3)))
        self.fc = nn.Linear(hidden, n_way)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(self.blocks(x).mean(dim=(2, 3)))


def two_layers(features: int, n_way: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, n_way))


def dropped(features: int, n_way: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(features, n_way))


def groups_of_eight(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels)


OMNIGLOT = Size({}, classes(5, 1, 28, 28), support=5, queries=75, tasks=8, steps=1)
SMALL = Size({"hidden": 8, "image_size": 16}, classes(5, 1, 16, 16), support=5, queries=7, tasks=2, steps=2)
OF_28 = Size({"hidden": 8}, classes(5, 1, 28, 28), support=5, queries=7, tasks=2, steps=2)
MINI_IMAGENET = Size(
    {"in_channels": 3, "hidden": 32, "image_size": 84}, classes(5, 3, 84, 84), support=5, queries=75, tasks=4, steps=5
)
BINARY = replace(OMNIGLOT, options={"n_way": 1}, draw=yes_or_no(1, 28, 28), support=10, queries=30)
VALUES = replace(OMNIGLOT, options={"n_way": 3}, draw=values(3, 1, 28, 28), support=10, queries=30)


def _conv4(title: str, build: Callable[..., nn.Module] = Conv4, small: Size = SMALL, **options: Any) -> Entry:
    entry = {"inner_lr": 0.1, "size": OMNIGLOT}
    entry |= {name: options.pop(name) for name in ("inner_lr", "loss_fn", "twin", "size") if name in options}
    return Entry(title, partial(build, **options), small=small, **entry)


NETS = {
    "conv4": _conv4("Conv4-64: convolution, batch norm, ReLU, pool, four times; flattened", twin=CONV4),
    "conv4-5-steps": _conv4("the same, 5 inner steps", twin=CONV4, size=replace(OMNIGLOT, steps=5)),
    "conv4-84": _conv4("Conv4-32 on 84x84x3, 4 tasks, 5 steps", twin=CONV4, size=MINI_IMAGENET, inner_lr=0.01),
    "conv4-view": _conv4("x.view(x.shape[0], -1)", ByView, twin=CONV4),
    "conv4-view-size": _conv4("x.view(x.size(0), -1)", ByViewOfSize, twin=CONV4),
    "conv4-reshape-len": _conv4("x.reshape(len(x), -1)", ByLength, twin=CONV4),
    "conv4-mean": _conv4("x.mean(dim=[2, 3])", ByMean),
    "conv4-adaptive-pool": _conv4("F.adaptive_avg_pool2d(x, 1), squeezed", ByAdaptivePool),
    "conv4-one-sequence": _conv4("one nn.Sequential that ends in AdaptiveAvgPool2d(1), Flatten", in_one_sequence),
    "conv4-unrolled": _conv4("layers by name, F.relu and F.max_pool2d", Unrolled, twin=CONV4),
    "conv4-two-linear": _conv4("a second Linear", head=two_layers),
    "conv4-dropout": _conv4("dropout before the classifier", head=dropped),
    "conv4-dropout2d": _conv4("Dropout2d in every block", dropout=0.1),
    "conv4-relu-first": _conv4("ReLU before batch norm", activation_first=True),
    "conv4-strided": _conv4(
        "Finn's strides and mean, one query of a class",
        strided,
        Size({"hidden": 8}, classes(5, 1, 28, 28), 5, 7, 2, 2),
        size=replace(OMNIGLOT, queries=5),
    ),
    "conv4-leaky-relu": _conv4("LeakyReLU", activation=partial(nn.LeakyReLU, 0.1)),
    "conv4-elu": _conv4("ELU", activation=nn.ELU),
    "conv4-gelu": _conv4("GELU", activation=nn.GELU),
    "conv4-silu": _conv4("SiLU", activation=nn.SiLU),
    "conv4-group-norm": _conv4("GroupNorm", norm=groups_of_eight),
    "conv4-instance-norm": _conv4("InstanceNorm", norm=partial(nn.InstanceNorm2d, affine=True)),
    "conv4-no-norm": _conv4("no norm", norm=None, inner_lr=0.05),
    "conv4-average-pool": _conv4("average pooling", pool=partial(nn.AvgPool2d, 2)),
    "conv4-pool-3-2": _conv4("max-pool 3/2", pool=partial(nn.MaxPool2d, 3, 2, 1)),
    "conv4-pool-2-1": _conv4(
        "three blocks of stride 2, max-pool 2/1", pool=partial(nn.MaxPool2d, 2, 1), stride=2, depth=3
    ),
    "conv4-no-pool": _conv4(
        "no pool, 32 channels, 8 tasks", ByMean, pool=None, size=replace(OMNIGLOT, options={"hidden": 32}, tasks=8)
    ),
    "conv4-5x5": _conv4("5x5 convolutions, 32 channels", kernel=5, size=replace(OMNIGLOT, options={"hidden": 32})),
    "conv4-2x2": _conv4("2x2 convolutions, three blocks", kernel=2, depth=3),
    "stem-7x7": _conv4(
        "7x7 convolution of stride 2, max-pool 3/2, three blocks, on 84x84x3",
        Stem,
        Size({"hidden": 8}, classes(5, 3, 42, 42), 5, 7, 2, 2),
        size=replace(MINI_IMAGENET, options={"hidden": 32}),
    ),
    "dragen1860": _conv4(
        "the net of dragen1860/MAML-Pytorch, a 2x2 convolution at its end, 5 steps",
        of_dragen1860,
        OF_28,
        size=replace(OMNIGLOT, steps=5),
    ),
    "conv4-label-smoothing": _conv4("label smoothing", loss_fn=losses.label_smoothing),
    "conv4-focal": _conv4("focal loss", loss_fn=losses.focal),
    "conv4-own-loss": _conv4("cross-entropy by hand", loss_fn=losses.log_probabilities),
    "conv4-one-hot-mse": _conv4("squared error of one-hot labels", loss_fn=losses.one_hot_mse),
    "conv4-one-logit": _conv4(
        "one logit under binary cross-entropy",
        loss_fn=losses.one_logit,
        size=BINARY,
        small=replace(SMALL, options={**SMALL.options, "n_way": 1}, draw=yes_or_no(1, 16, 16)),
    ),
    "conv4-mse": _conv4(
        "regression of three values",
        loss_fn=F.mse_loss,
        size=VALUES,
        small=replace(SMALL, options={**SMALL.options, "n_way": 3}, draw=values(3, 1, 16, 16)),
    ),
}

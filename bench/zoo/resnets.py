"""Deeper nets of images: residual, depthwise-separable, U-shaped, and LeNet."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.conv4 import groups_of_eight
from zoo.entry import Entry, Size, classes, pixels

Norm = Callable[[int], nn.Module]


class Block12(nn.Module):
    """Three convolutions, a shortcut, and a pool: of ResNet-12 (Lee et al. 2019), without DropBlock."""

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn3 = norm(channels)
        self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), norm(channels))
        self.relu = nn.LeakyReLU(0.1)
        self.maxpool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.downsample(x)
        return self.maxpool(self.relu(out))


class ResNet12(nn.Module):
    def __init__(self, width: int = 16, n_way: int = 5, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.Sequential(*(Block12(i, o, norm) for i, o in itertools.pairwise(channels)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[-1], n_way)

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.layers(x))
        return self.fc(x.view(x.size(0), -1))


class BasicBlock(nn.Module):
    """He et al. 2016."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    """ResNet-10 (one block in a layer) or ResNet-18 (two), as for CIFAR."""

    def __init__(self, blocks: int, width: int = 16, n_way: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        layers, in_channels = [], width
        for level in range(4):
            for block in range(blocks):
                stride = 2 if level and not block else 1
                layers.append(BasicBlock(in_channels, width * 2**level, stride))
                in_channels = width * 2**level
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(in_channels, n_way)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        out = F.adaptive_avg_pool2d(out, 1)
        return self.linear(torch.flatten(out, 1))


class WideBlock(nn.Module):
    """Norm and activation before each convolution (Zagoruyko & Komodakis 2016)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.equal = in_channels == channels
        self.shortcut = None if self.equal else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        through = x if self.shortcut is None else self.shortcut(out)
        return through + self.conv2(F.relu(self.bn2(self.conv1(out))))


class WideResNet(nn.Module):
    def __init__(self, depth: int = 28, widen: int = 1, n_way: int = 5) -> None:
        super().__init__()
        channels = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        layers = []
        for level in range(3):
            for block in range((depth - 4) // 6):
                in_channels = channels[level + 1] if block else channels[level]
                layers.append(WideBlock(in_channels, channels[level + 1], 2 if level and not block else 1))
        self.blocks = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(channels[-1])
        self.fc = nn.Linear(channels[-1], n_way)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn(self.blocks(self.conv1(x))))
        return self.fc(out.mean([2, 3]))


def separable(width: int = 32, n_way: int = 5) -> nn.Module:
    """MobileNet's depthwise-separable blocks (Howard et al. 2017)."""

    def block(in_channels: int, channels: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU6(),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
        ]

    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()),
        *block(width, 2 * width, 1),
        *block(2 * width, 4 * width, 2),
        *block(4 * width, 4 * width, 1),
        *block(4 * width, 8 * width, 2),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, n_way)),
    )


class UNet(nn.Module):
    """Ronneberger et al. 2015, two levels deep: a class for every pixel."""

    def __init__(self, width: int = 16, n_classes: int = 2) -> None:
        super().__init__()
        self.down1, self.down2 = _double(3, width), _double(width, 2 * width)
        self.middle = _double(2 * width, 4 * width)
        self.up2, self.up1 = (nn.ConvTranspose2d(2 * each, each, 2, stride=2) for each in (2 * width, width))
        self.join2, self.join1 = _double(4 * width, 2 * width), _double(2 * width, width)
        self.out = nn.Conv2d(width, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.middle(F.max_pool2d(second, 2))
        x = self.join2(torch.cat([second, self.up2(x)], dim=1))
        return self.out(self.join1(torch.cat([first, self.up1(x)], dim=1)))


def _double(in_channels: int, channels: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
        *(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
    )


class LeNet(nn.Module):
    """LeCun et al. 1998, with ReLU and max-pools, as PyTorch's tutorials have it."""

    def __init__(self, n_way: int = 5) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, n_way)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 5 * 5)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


MINI_IMAGENET = Size({}, classes(5, 3, 84, 84), support=5, queries=25, tasks=2, steps=2)
CIFAR = Size({}, classes(5, 3, 32, 32), support=5, queries=25, tasks=4, steps=3)
PICTURES = Size({}, pixels(2, 3, 64, 64), support=5, queries=5, tasks=4, steps=3)
OMNIGLOT = Size({}, classes(5, 1, 28, 28), support=5, queries=75, tasks=32, steps=1)
SMALL = replace(CIFAR, queries=6, tasks=2, steps=2, draw=classes(5, 3, 16, 16))
NARROW = replace(SMALL, options={"width": 8})


def _net(title: str, build: Callable[..., nn.Module], size: Size, small: Size = NARROW, **entry: Any) -> Entry:
    return Entry(title, build, size, small, **{"inner_lr": 0.05, **entry})


NETS = {
    "resnet12": _net("ResNet-12, 16 to 128 channels, on 84x84x3, 2 tasks, 2 steps", ResNet12, MINI_IMAGENET),
    "resnet12-group-norm": _net(
        "the same with GroupNorm", partial(ResNet12, norm=groups_of_eight), MINI_IMAGENET, inner_lr=0.01
    ),
    "resnet10": _net("ResNet-10, 16 to 128 channels, on 32x32x3, 4 tasks, 3 steps", partial(ResNet, 1), CIFAR),
    "resnet18": _net("ResNet-18, 16 to 128 channels, on 32x32x3, 4 tasks, 3 steps", partial(ResNet, 2), CIFAR),
    "wrn-28": _net(
        "WRN-28-10 narrowed to WRN-28-1, on 32x32x3, 4 tasks, 3 steps",
        WideResNet,
        CIFAR,
        replace(SMALL, options={"depth": 10}),
    ),
    "separable": _net("depthwise-separable blocks, 32 to 256 channels, on 32x32x3, 4 tasks, 3 steps", separable, CIFAR),
    "u-net": _net(
        "U-Net, 16 to 64 channels, a class for every pixel of 64x64x3, 4 tasks, 3 steps",
        UNet,
        PICTURES,
        replace(NARROW, draw=pixels(2, 3, 16, 16)),
    ),
    "lenet": _net("LeNet on 28x28", LeNet, OMNIGLOT, replace(OMNIGLOT, queries=7, tasks=2, steps=2)),
}

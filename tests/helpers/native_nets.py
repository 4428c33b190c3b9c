"""Nets of all kinds whose whole inner loop has a native form."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from maml_fast.models import Conv4, TutorialNet
from maml_fast.nn import BatchStatNorm2d, ConvBlock


class SmallTutorialNet(TutorialNet):
    hidden = 8


class View(nn.Module):
    """Flattened as most code in the field does it; no biases, a filter of 5, a hidden layer of few channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 3, 5, padding=2, bias=False), BatchStatNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 17, 3, stride=2, bias=False), BatchStatNorm2d(17, affine=False)
        self.fc = nn.Linear(17 * 6, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.fc(x.view(x.size(0), -1))


class Blocks(nn.Sequential):
    """Blocks of ours: filters of 1, stride 3, ReLU before the norm."""

    def __init__(self) -> None:
        first = ConvBlock(5, 6, kernel_size=3, padding=1, pool=2)
        second = ConvBlock(6, 20, kernel_size=1, stride=3, padding=0, pool=None, relu_first=True)
        super().__init__(first, second, nn.Flatten(), nn.Linear(20 * 4, 5))


class Conv2(nn.Module):
    """The smallest net like Conv4: two blocks, whose parts have Conv4's names."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*(self._block(channels) for channels in (1, 4)))
        self.classifier = nn.Linear(4 * 4, 5)

    def _block(self, channels: int) -> nn.Sequential:
        conv, norm = nn.Conv2d(channels, 4, 3, padding=1), BatchStatNorm2d(4)
        return nn.Sequential(OrderedDict(conv=conv, norm=norm, relu=nn.ReLU(), pool=nn.MaxPool2d(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "conv2": (Conv2, (1, 9, 9)),
    "conv4": (lambda: Conv4(hidden=8, image_size=17), (1, 17, 17)),
    "narrow": (lambda: Conv4(hidden=3), (1, 28, 28)),
    "winograd": (lambda: Conv4(hidden=16), (1, 28, 28)),
    "color": (lambda: Conv4(in_channels=3, hidden=12, image_size=40), (3, 40, 40)),
    "strided": (lambda: Conv4(strided=True, hidden=20), (1, 28, 28)),
    "tutorial": (SmallTutorialNet, (1, 28, 28)),
    "view": (View, (2, 13, 11)),
    "blocks": (Blocks, (5, 10, 11)),
}


def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = NETS[name][0]().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.shape = NETS[name][1]
    return model

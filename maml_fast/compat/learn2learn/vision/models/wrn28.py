"""The wide residual network of 28 layers, with learn2learn's parameter names and initial values."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast._arguments import int_from, number, takes

__all__ = ["WRN28", "WRN28Backbone"]

DEPTH, WIDTH = 28, 10


class _WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, and a shortcut."""

    def __init__(self, in_planes: int, planes: int, dropout: float, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(p=dropout)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(self.conv1(F.relu(self.bn1(x))))
        return self.conv2(F.relu(self.bn2(out))) + self.shortcut(x)


class WRN28Backbone(nn.Module):
    """The features of :class:`WRN28`.

    Args:
        dropout: dropout between the two convolutions of a block.
    """

    @takes(dropout=number(least=0))
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        n_blocks = (DEPTH - 4) // 6
        self.in_planes = 16
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1)
        for i, stride in enumerate((1, 2, 2)):
            planes = 16 * WIDTH * 2**i
            first = _WideBlock(self.in_planes, planes, dropout, stride)
            others = (_WideBlock(planes, planes, dropout, 1) for _ in range(n_blocks - 1))
            self.in_planes = planes
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *others))
        self.bn1 = nn.BatchNorm2d(self.in_planes, momentum=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, 3, 84, 84] to features [B, 640]."""
        x = self.conv1(x)
        for i in range(1, 4):
            x = getattr(self, f"layer{i}")(x)
        return F.avg_pool2d(F.relu(self.bn1(x)), 21).flatten(1)


class WRN28(nn.Module):
    """The wide residual network of few-shot learning (Zagoruyko & Komodakis 2016; Dhillon et al. 2020).

    Args:
        output_size: number of classes.
        hidden_size: number of features, 640 for 84x84 pixels.
        dropout: dropout between the two convolutions of a block.
    """

    @takes(output_size=int_from(1), hidden_size=int_from(1))
    def __init__(self, output_size: int, hidden_size: int = 640, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = WRN28Backbone(dropout)
        self.classifier = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, 3, 84, 84] to logits [B, output_size]."""
        return self.classifier(self.features(x))

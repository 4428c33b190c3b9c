"""The residual network of twelve layers, with learn2learn's parameter names and initial values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast._arguments import flag, int_from, number, takes
from maml_fast.compat.learn2learn.nn import Flatten

__all__ = ["BasicBlock", "DropBlock", "ResNet12", "ResNet12Backbone"]


class DropBlock(nn.Module):
    """In training, sets random squares of an image to zero (Ghiasi et al. 2018).

    Args:
        block_size: side of the squares, in pixels.
    """

    @takes(block_size=int_from(1))
    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size

    def forward(self, x: Tensor, gamma: float) -> Tensor:
        """Return x [B, C, H, W], scaled to keep its mean; every pixel is with probability gamma a square's corner."""
        if not self.training:
            return x
        height, width = (extent - self.block_size + 1 for extent in x.shape[2:])
        corners = torch.distributions.Bernoulli(gamma).sample((*x.shape[:2], height, width)).to(x.device)
        border = self.block_size - 1
        # A pixel is dropped if a corner lies up to `border` pixels above and to the left of it.
        dropped = F.max_pool2d(F.pad(corners, [border] * 4), self.block_size, stride=1)
        kept = 1 - dropped
        return kept * x * (kept.numel() / kept.sum())


class BasicBlock(nn.Module):
    """Three 3x3 convolutions with batch norm, a shortcut, max-pool, and dropout of values or squares.

    Args:
        inplanes, planes: channels of the input and the output.
        stride: side of the max-pool.
        downsample: the shortcut; the identity if ``None``.
        drop_rate: probability of dropout.
        drop_block: whether squares are dropped; their probability grows with the number of calls.
        block_size: side of the squares, in pixels.
    """

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        drop_rate: float = 0.0,
        drop_block: bool = False,
        block_size: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inplanes, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.LeakyReLU(0.1)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv3x3(planes, planes)
        self.bn3 = nn.BatchNorm2d(planes)
        self.maxpool = nn.MaxPool2d(stride)
        self.downsample = downsample
        self.stride = stride
        self.drop_rate = drop_rate
        self.num_batches_tracked = 0
        self.drop_block = drop_block
        self.block_size = block_size
        self.DropBlock = DropBlock(block_size=block_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [B, inplanes, H, W] to [B, planes, H // stride, W // stride]."""
        self.num_batches_tracked += 1
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = self.maxpool(self.relu(out + (x if self.downsample is None else self.downsample(x))))
        if self.drop_rate == 0:
            return out
        if not self.drop_block:
            return F.dropout(out, p=self.drop_rate, training=self.training)
        side = out.shape[2]
        rate = min(self.drop_rate / 40000 * self.num_batches_tracked, self.drop_rate)
        gamma = rate / self.block_size**2 * side**2 / (side - self.block_size + 1) ** 2
        return self.DropBlock(out, gamma=gamma)


class ResNet12Backbone(nn.Module):
    """The features of :class:`ResNet12`; its arguments are those of that class."""

    @takes(
        avg_pool=flag,
        wider=flag,
        embedding_dropout=number(least=0),
        dropblock_dropout=number(least=0),
        dropblock_size=int_from(1),
        channels=int_from(1),
    )
    def __init__(
        self,
        avg_pool: bool = True,
        wider: bool = True,
        embedding_dropout: float = 0.0,
        dropblock_dropout: float = 0.1,
        dropblock_size: int = 5,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.inplanes = channels
        for i, planes in enumerate([64, 160, 320, 640] if wider else [64, 128, 256, 512], start=1):
            squares = {"drop_block": True, "block_size": dropblock_size} if i > 2 else {}
            self.add_module(f"layer{i}", self._layer(planes, dropblock_dropout, squares))
        self.avgpool = nn.AvgPool2d(5, stride=1) if avg_pool else nn.Identity()
        self.flatten = Flatten()
        self.embedding_dropout = embedding_dropout
        self.keep_avg_pool = avg_pool
        self.dropout = nn.Dropout(p=embedding_dropout)
        self.dropblock_dropout = dropblock_dropout
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def _layer(self, planes: int, drop_rate: float, squares: dict[str, int]) -> nn.Sequential:
        shortcut = nn.Sequential(nn.Conv2d(self.inplanes, planes, 1, bias=False), nn.BatchNorm2d(planes))
        block = BasicBlock(self.inplanes, planes, 2, shortcut, drop_rate, **squares)  # type: ignore[arg-type]
        self.inplanes = planes
        return nn.Sequential(block)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, channels, H, W] to features [B, N]."""
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return self.dropout(self.flatten(self.avgpool(x)))


class ResNet12(nn.Module):
    """The residual network of few-shot learning (Mishra et al. 2018; Lee et al. 2019).

    Args:
        output_size: number of classes.
        hidden_size: number of features: 640 for 84x84 pixels, 16000 without ``avg_pool``.
        avg_pool: whether the features are means over the image.
        wider: whether the channels are 64, 160, 320, 640 (Lee et al.) or 64, 128, 256, 512 (Oreshkin et al. 2018).
        embedding_dropout: dropout of the features.
        dropblock_dropout: dropout of the residual layers.
        dropblock_size: side of the squares that the last two layers drop, in pixels.
        channels: channels of the images.
    """

    @takes(output_size=int_from(1), hidden_size=int_from(1))
    def __init__(
        self,
        output_size: int,
        hidden_size: int = 640,
        avg_pool: bool = True,
        wider: bool = True,
        embedding_dropout: float = 0.0,
        dropblock_dropout: float = 0.1,
        dropblock_size: int = 5,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.features = ResNet12Backbone(
            avg_pool, wider, embedding_dropout, dropblock_dropout, dropblock_size, channels
        )
        self.classifier = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, channels, H, W] to logits [B, output_size]."""
        return self.classifier(self.features(x))


def _conv3x3(in_planes: int, out_planes: int) -> nn.Conv2d:
    return nn.Conv2d(in_planes, out_planes, kernel_size=3, padding=1, bias=False)

"""The networks of MAML's experiments, with learn2learn's parameter names and initial values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from maml_fast._arguments import flag, int_from, number, optional, takes
from maml_fast.compat.learn2learn.nn import Flatten, Lambda
from maml_fast.compat.learn2learn.vision.models._fusing import FusedSequential
from maml_fast.compat.learn2learn.vision.models._initialization import fc_init_, maml_init_

__all__ = [
    "CNN4",
    "CNN4Backbone",
    "ConvBase",
    "ConvBlock",
    "LinearBlock",
    "MiniImagenetCNN",
    "OmniglotCNN",
    "OmniglotFC",
    "fc_init_",
    "maml_init_",
]


class LinearBlock(nn.Module):
    """Linear layer, batch norm by the batch's statistics, ReLU.

    Args:
        input_size, output_size: features of the input [B, input_size] and the output.
    """

    @takes(input_size=int_from(1), output_size=int_from(1))
    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.normalize = nn.BatchNorm1d(output_size, momentum=0.999, eps=1e-3, track_running_stats=False)
        self.linear = fc_init_(nn.Linear(input_size, output_size))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, input_size] to [B, output_size]."""
        return self.relu(self.normalize(self.linear(x)))


class ConvBlock(nn.Module):
    """Convolution, batch norm with running statistics, ReLU, max-pool.

    Args:
        in_channels, out_channels: channels of the input and the output.
        kernel_size: size of the filters; the padding is 1.
        max_pool: whether a max-pool makes the image smaller, or else the stride of the convolution.
        max_pool_factor: half the side of the pool, or of the stride.
    """

    @takes(in_channels=int_from(1), out_channels=int_from(1), max_pool=flag, max_pool_factor=number(above=0))
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        max_pool: bool = True,
        max_pool_factor: float = 1.0,
    ) -> None:
        super().__init__()
        step = int(2 * max_pool_factor)
        self.max_pool = nn.MaxPool2d(step) if max_pool else nn.Identity()
        self.normalize = nn.BatchNorm2d(out_channels)
        nn.init.uniform_(self.normalize.weight)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=1 if max_pool else step, padding=1)
        maml_init_(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to features [B, out_channels, H', W']."""
        return self.max_pool(self.relu(self.normalize(self.conv(x))))


class ConvBase(FusedSequential):
    """A sequence of :class:`ConvBlock` with 3x3 filters.

    Args:
        hidden: channels of every block.
        channels: channels of the images.
        max_pool, max_pool_factor: as for :class:`ConvBlock`.
        layers: the number of blocks.
    """

    @takes(hidden=int_from(1), channels=int_from(1), layers=int_from(1))
    def __init__(
        self,
        hidden: int = 64,
        channels: int = 1,
        max_pool: bool = False,
        layers: int = 4,
        max_pool_factor: float = 1.0,
    ) -> None:
        sizes = pairwise([channels, *[hidden] * layers])
        super().__init__(*(ConvBlock(a, b, (3, 3), max_pool, max_pool_factor) for a, b in sizes))


class OmniglotFC(nn.Module):
    """Fully connected layers with batch norm for Omniglot (Santoro et al. 2016).

    Args:
        input_size: pixels of an image.
        output_size: number of classes.
        sizes: features of the hidden layers; 256, 128, 64, 64 by default.
    """

    @takes(input_size=int_from(1), output_size=int_from(1))
    def __init__(self, input_size: int, output_size: int, sizes: Sequence[int] | None = None) -> None:
        super().__init__()
        sizes = [256, 128, 64, 64] if sizes is None else sizes
        blocks = [LinearBlock(a, b) for a, b in pairwise([input_size, *sizes])]
        self.features = nn.Sequential(Flatten(), nn.Sequential(*blocks))
        self.classifier = fc_init_(nn.Linear(sizes[-1], output_size))
        self.input_size = input_size

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, ...] of ``input_size`` pixels to logits [B, output_size]."""
        return self.classifier(self.features(x))


class OmniglotCNN(nn.Module):
    """Four strided convolutions for Omniglot, 28x28 pixels (Finn et al. 2017).

    Args:
        output_size: number of classes.
        hidden_size: channels of every layer.
        layers: number of convolutions.
    """

    @takes(output_size=int_from(1), hidden_size=int_from(1), layers=int_from(1))
    def __init__(self, output_size: int = 5, hidden_size: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.base = ConvBase(hidden=hidden_size, channels=1, max_pool=False, layers=layers)
        self.features = nn.Sequential(Lambda(_as_images), self.base, Lambda(_pixel_mean), Flatten())
        self.classifier = nn.Linear(hidden_size, output_size)
        self.classifier.weight.data.normal_()
        self.classifier.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, 1, 28, 28], or as many pixels in another shape, to logits [B, output_size]."""
        return self.classifier(self.features(x))


class CNN4Backbone(ConvBase):
    """Four 3x3 convolutions, flattened: the features of :class:`CNN4`.

    Args:
        hidden_size, layers, channels, max_pool: as for :class:`CNN4`.
        max_pool_factor: half the side of the pools; 4 // layers by default.
    """

    @takes(hidden_size=int_from(1), layers=int_from(1))
    def __init__(
        self,
        hidden_size: int = 64,
        layers: int = 4,
        channels: int = 3,
        max_pool: bool = True,
        max_pool_factor: float | None = None,
    ) -> None:
        factor = 4 // layers if max_pool_factor is None else max_pool_factor
        super().__init__(hidden_size, channels, max_pool, layers, factor)

    def forward(self, x: Any) -> Any:
        """Map images [B, channels, H, W] to features [B, N]."""
        return super().forward(x).reshape(x.size(0), -1)


class CNN4(nn.Module):
    """Four convolutions for mini-ImageNet, 84x84 pixels (Ravi & Larochelle 2017).

    Args:
        output_size: number of classes.
        hidden_size: channels of every layer.
        layers: number of convolutions.
        channels: channels of the images.
        max_pool: whether max-pools make the image smaller, or else strides.
        embedding_size: number of features; 25 * hidden_size by default, which is that of 84x84 pixels.
    """

    @takes(output_size=int_from(1), hidden_size=int_from(1), layers=int_from(1), embedding_size=optional(int_from(1)))
    def __init__(
        self,
        output_size: int,
        hidden_size: int = 64,
        layers: int = 4,
        channels: int = 3,
        max_pool: bool = True,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__()
        self.features = CNN4Backbone(hidden_size, layers, channels, max_pool, 4 // layers)
        self.classifier = maml_init_(nn.Linear(embedding_size or 25 * hidden_size, output_size))
        self.hidden_size = hidden_size

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, channels, H, W] to logits [B, output_size]."""
        return self.classifier(self.features(x))


MiniImagenetCNN = CNN4


def _as_images(x: Tensor) -> Tensor:
    return x.view(-1, 1, 28, 28)


def _pixel_mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))

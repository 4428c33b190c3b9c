"""The residual network of twelve convolutions that few-shot papers use since 2018."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast._arguments import int_from, many, optional, takes
from maml_fast.models._inputs import checked_images
from maml_fast.models._layers import conv3x3
from maml_fast.nn import BatchStatNorm2d

__all__ = ["ResNet12"]

SLOPE = 0.1  # of the leaky ReLUs


class ResNet12(nn.Module):
    """Four residual blocks of three 3x3 convolutions, as in Lee et al. 2019 (MetaOptNet), without DropBlock.

    Each convolution is followed by batch norm with the batch's statistics and a leaky ReLU of slope 0.1, and each block
    by a 2x2 max-pool. The classifier reads the mean over the image. Convolutions are initialized as in He et al. 2015,
    the classifier as :class:`torch.nn.Linear`.

    Args:
        n_way: number of classes of an episode; ``None`` leaves out the classifier, so that the model returns embeddings
            [B, widths[-1]].
        in_channels: channels of the images.
        widths: channels of the four blocks.
        image_size: side of the square images, in pixels.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a size is below 1, there are not four widths, or the images are too small for four halvings;
            ``forward`` raises it for images of another shape than the model was made for.
    """

    @takes(n_way=optional(int_from(1)), in_channels=int_from(1), widths=many(int_from(1), 4), image_size=int_from(1))
    def __init__(
        self,
        n_way: int | None = 5,
        *,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        image_size: int = 84,
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(f"four 2x2 max-pools need an image_size of at least 16, got {image_size}")
        self.in_channels = in_channels
        self.image_size = image_size
        self.blocks = nn.Sequential(*(_Block(*pair) for pair in itertools.pairwise((in_channels, *widths))))
        self.classifier = nn.Identity() if n_way is None else nn.Linear(widths[-1], n_way)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, in_channels, image_size, image_size] to logits [B, n_way] or embeddings."""
        x = self.blocks(checked_images(x, self.in_channels, self.image_size))
        return self.classifier(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    """Three convolutions and a 1x1 shortcut, then a pool."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        pairs = ((in_channels, channels), (channels, channels), (channels, channels))
        self.convs = nn.ModuleList(conv3x3(*pair, stride=1, padding=1, bias=False) for pair in pairs)
        self.norms = nn.ModuleList(BatchStatNorm2d(channels) for _ in pairs)
        self.shortcut = nn.Sequential(
            nn.utils.skip_init(nn.Conv2d, in_channels, channels, 1, bias=False), BatchStatNorm2d(channels)
        )
        for conv in (*self.convs, self.shortcut[0]):
            nn.init.kaiming_normal_(conv.weight, a=SLOPE, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, channels, H // 2, W // 2]."""
        z = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            z = norm(conv(z)) if i == 0 else norm(conv(F.leaky_relu(z, SLOPE)))
        return F.max_pool2d(F.leaky_relu(z + self.shortcut(x), SLOPE), 2)

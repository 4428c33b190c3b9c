"""The network of a widely copied tutorial on MAML."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from maml_fast._arguments import int_from, takes
from maml_fast.models._inputs import checked_images
from maml_fast.models._layers import conv3x3, zero_bias
from maml_fast.nn import BatchStatNorm2d

__all__ = ["TutorialNet"]


class TutorialNet(nn.Module):
    """The 28x28 network of a widely copied tutorial on MAML, with the same 18 parameters in order, shape and value.

    It has three blocks of [3x3 convolution with stride 2 and padding 2, batch norm, 2x2 max-pool, ReLU], a fourth block
    of [convolution, ReLU, batch norm, max-pool], each with 64 channels, and a linear classifier whose weights all start
    at one. Batch norm always uses the batch's statistics. After the same ``torch.manual_seed``, the initial values are
    the tutorial's own, draw for draw.

    Args:
        n_way: number of classes of an episode.
        in_channels: channels of the images.

    Raises:
        TypeError, ValueError: if a size is not a whole number of at least 1; ``forward`` raises them for images that
            are not [B, in_channels, 28, 28].
    """

    hidden = 64
    image_size = 28

    @takes(n_way=int_from(1), in_channels=int_from(1))
    def __init__(self, n_way: int = 5, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = [in_channels, self.hidden, self.hidden, self.hidden]
        orders = [("conv", "norm", "pool", "relu")] * 3 + [("conv", "relu", "norm", "pool")]
        self.features = nn.Sequential(*(self._block(c, order) for c, order in zip(channels, orders, strict=True)))
        self.classifier = nn.utils.skip_init(nn.Linear, self.hidden, n_way)
        self.reset_parameters()

    def _block(self, in_channels: int, order: Sequence[str]) -> nn.Sequential:
        layers: dict[str, nn.Module] = {
            "conv": conv3x3(in_channels, self.hidden, stride=2, padding=2),
            "norm": BatchStatNorm2d(self.hidden),
            "pool": nn.MaxPool2d(2),
            "relu": nn.ReLU(),
        }
        return nn.Sequential(OrderedDict((name, layers[name]) for name in order))

    def reset_parameters(self) -> None:
        """Draw new initial values from torch's generator."""
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                zero_bias(module)
            elif isinstance(module, BatchStatNorm2d):
                module.reset_parameters()
        nn.init.ones_(self.classifier.weight)
        zero_bias(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, in_channels, 28, 28] to logits [B, n_way]."""
        x = self.features(checked_images(x, self.in_channels, self.image_size))
        return self.classifier(x.flatten(1))

"""The four-block convolutional network of the few-shot literature."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from maml_fast._arguments import flag, int_from, number, optional, takes
from maml_fast.models._inputs import checked_images
from maml_fast.models._layers import conv3x3, zero_bias
from maml_fast.nn import BatchStatNorm2d

__all__ = ["Conv4"]


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm with the batch's statistics and ReLU, then a linear classifier.

    The parameters are ``features.0.conv.weight``, ``features.0.conv.bias``, ``features.0.norm.weight``,
    ``features.0.norm.bias``, ..., ``classifier.weight``, ``classifier.bias``.

    There are two forms, both from Finn et al. 2017 and github.com/cbfinn/maml, with the same initialization as there
    (Xavier-uniform convolutions, zero biases):

    * ``strided=False``: stride 1 and a 2x2 max-pool in every block; the classifier (Xavier-uniform) reads the
      flattened features. Finn's network for mini-ImageNet has ``image_size=84, in_channels=3, hidden=32``.
    * ``strided=True``: stride 2 and no pooling (28 -> 14 -> 7 -> 4 -> 2 pixels); the classifier (normal, standard
      deviation 1) reads the mean over the image. This is Finn's network for Omniglot, with its batch norm: no scale
      and ``eps=1e-3``. TensorFlow's ``SAME`` pads even sizes only at the bottom and right; here every side is padded
      by one row of zeros. The output sizes are the same, but on even sizes the windows start one pixel earlier.

    Args:
        n_way: number of classes of an episode; ``None`` leaves out the classifier, so that the model returns embeddings
            [B, hidden * side * side].
        in_channels: channels of the images.
        hidden: channels of every block.
        image_size: side of the square images, in pixels.
        strided: which of the two forms to build.
        gamma: whether batch norm has a scale; by default it has one unless ``strided``.
        eps: added to batch norm's variance; by default 1e-3 if ``strided``, else 1e-5.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a size is below 1, ``eps`` is not positive, or the images are too small for four halvings;
            ``forward`` raises it for images of another shape than the model was made for.
    """

    @takes(
        n_way=optional(int_from(1)),
        in_channels=int_from(1),
        hidden=int_from(1),
        image_size=int_from(1),
        strided=flag,
        gamma=optional(flag),
        eps=optional(number(above=0)),
    )
    def __init__(
        self,
        n_way: int | None = 5,
        *,
        in_channels: int = 1,
        hidden: int = 64,
        image_size: int = 28,
        strided: bool = False,
        gamma: bool | None = None,
        eps: float | None = None,
    ) -> None:
        super().__init__()
        if not strided and image_size < 16:
            raise ValueError(f"four 2x2 max-pools need an image_size of at least 16, got {image_size}; or strided=True")
        self.in_channels = in_channels
        self.image_size = image_size
        self.strided = strided
        gamma = not strided if gamma is None else gamma
        eps = (1e-3 if strided else 1e-5) if eps is None else eps
        channels = [in_channels, hidden, hidden, hidden, hidden]
        self.features = nn.Sequential(*(self._block(channels[i], hidden, gamma, eps) for i in range(4)))
        side = 1 if strided else image_size // 16  # of the feature map that the classifier reads, in pixels
        features = hidden * side * side
        self.classifier = nn.Identity() if n_way is None else nn.utils.skip_init(nn.Linear, features, n_way)
        self.reset_parameters()

    def _block(self, in_channels: int, out_channels: int, gamma: bool, eps: float) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = conv3x3(in_channels, out_channels, stride=2 if self.strided else 1, padding=1)
        layers["norm"] = BatchStatNorm2d(out_channels, eps, gamma=gamma)
        layers["relu"] = nn.ReLU()
        if not self.strided:
            layers["pool"] = nn.MaxPool2d(2)
        return nn.Sequential(layers)

    def reset_parameters(self) -> None:
        """Draw new initial values from torch's generator."""
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                zero_bias(module)
            elif isinstance(module, BatchStatNorm2d):
                module.reset_parameters()
        if isinstance(self.classifier, nn.Identity):
            return
        if self.strided:
            nn.init.normal_(self.classifier.weight)
        else:
            nn.init.xavier_uniform_(self.classifier.weight)
        zero_bias(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, in_channels, image_size, image_size] to logits [B, n_way] or embeddings."""
        x = self.features(checked_images(x, self.in_channels, self.image_size))
        return self.classifier(x.mean(dim=(2, 3)) if self.strided else x.flatten(1))

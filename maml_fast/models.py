"""The networks of the few-shot literature, as ordinary modules of one task: images [B, C, H, W] to logits [B, n_way].

They are written with the layers of ``torch.nn``; :func:`maml_fast.fuse` puts their blocks on the fused operation.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from maml_fast.nn import BatchStatNorm2d, per_image, traced_as_one

__all__ = ["MLP", "Conv4", "TutorialNet"]


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm on the batch's statistics and ReLU, then a linear classifier.

    The parameters are ``features.0.conv.weight``, ``features.0.conv.bias``, ``features.0.norm.weight``,
    ``features.0.norm.bias``, ..., ``classifier.weight``, ``classifier.bias``.

    Two forms, both from Finn et al. 2017 and github.com/cbfinn/maml, whose initial values they take too (Xavier-uniform
    convolutions, zero biases):

    * ``strided=False``: stride 1 and a 2x2 max-pool in every block; the classifier (Xavier-uniform) reads the
      flattened features. His net for mini-ImageNet has ``image_size=84, in_channels=3, hidden=32``.
    * ``strided=True``: stride 2 and no pool (28 -> 14 -> 7 -> 4 -> 2 pixels); the classifier (normal, standard
      deviation 1) reads the mean over the image. His net for Omniglot, with its batch norm: no scale and ``eps=1e-3``.
      TensorFlow's ``SAME`` pads even sizes at the lower and right side alone, here every side gets one row of zeros:
      the sizes are the same, the windows on even sizes start one pixel earlier.

    Args:
        n_way: classes of an episode; None leaves the classifier out: embeddings come out, [B, hidden * side * side].
        in_channels: channels of the images.
        hidden: channels of every block.
        image_size: side of the square images, in pixels.
        strided: which of the two forms.
        gamma: whether batch norm has a scale; by default it has unless ``strided``.
        eps: added to batch norm's variance; by default 1e-3 if ``strided``, else 1e-5.

    Raises:
        ValueError: for a size below 1, an ``eps`` that is not positive, or images too small for four halvings; from
            ``forward``, for images of another shape than the model was made for.
    """

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
        _check_sizes(n_way=1 if n_way is None else n_way, in_channels=in_channels, hidden=hidden, image_size=image_size)
        if not strided and image_size < 16:
            raise ValueError(f"four 2x2 max-pools need an image_size of at least 16, got {image_size}; or strided=True")
        self.in_channels = in_channels
        self.image_size = image_size
        self.strided = strided
        gamma = not strided if gamma is None else gamma
        eps = (1e-3 if strided else 1e-5) if eps is None else eps
        channels = [in_channels, hidden, hidden, hidden, hidden]
        self.features = nn.Sequential(*(self._block(channels[i], hidden, gamma, eps) for i in range(4)))
        side = 1 if strided else image_size // 16  # pixels that the classifier reads
        features = hidden * side * side
        self.classifier = nn.Identity() if n_way is None else nn.utils.skip_init(nn.Linear, features, n_way)
        self.reset_parameters()

    def _block(self, in_channels: int, out_channels: int, gamma: bool, eps: float) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = _conv(in_channels, out_channels, stride=2 if self.strided else 1, padding=1)
        layers["norm"] = BatchStatNorm2d(out_channels, eps, gamma=gamma)
        layers["relu"] = nn.ReLU()
        if not self.strided:
            layers["pool"] = nn.MaxPool2d(2)
        return nn.Sequential(layers)

    def reset_parameters(self) -> None:
        """Draw the initial values anew from torch's generator."""
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                _zero_bias(module)
            elif isinstance(module, BatchStatNorm2d):
                module.reset_parameters()
        if isinstance(self.classifier, nn.Identity):
            return
        if self.strided:
            nn.init.normal_(self.classifier.weight)
        else:
            nn.init.xavier_uniform_(self.classifier.weight)
        _zero_bias(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, in_channels, image_size, image_size] to logits [B, n_way], or to embeddings."""
        x = self.features(checked_images(x, self.in_channels, self.image_size))
        return self.classifier(x.mean(dim=(2, 3)) if self.strided else x.flatten(1))


class TutorialNet(nn.Module):
    """The 28x28 network of a widely copied tutorial on MAML, with its 18 parameters in its order, shapes and values.

    Three blocks of [3x3 convolution with stride 2 and padding 2, batch norm, 2x2 max-pool, ReLU], a fourth of
    [convolution, ReLU, batch norm, max-pool], 64 channels each, and a linear classifier whose weights all start at
    one. Batch norm takes the batch's statistics, always. From one ``torch.manual_seed`` the initial values are the
    tutorial's own, draw for draw.

    Args:
        n_way: classes of an episode.
        in_channels: channels of the images.

    Raises:
        ValueError: for a size below 1; from ``forward``, for images that are not [B, in_channels, 28, 28].
    """

    hidden = 64
    image_size = 28

    def __init__(self, n_way: int = 5, in_channels: int = 1) -> None:
        super().__init__()
        _check_sizes(n_way=n_way, in_channels=in_channels)
        self.in_channels = in_channels
        channels = [in_channels, self.hidden, self.hidden, self.hidden]
        orders = [("conv", "norm", "pool", "relu")] * 3 + [("conv", "relu", "norm", "pool")]
        self.features = nn.Sequential(*(self._block(c, order) for c, order in zip(channels, orders, strict=True)))
        self.classifier = nn.utils.skip_init(nn.Linear, self.hidden, n_way)
        self.reset_parameters()

    def _block(self, in_channels: int, order: Sequence[str]) -> nn.Sequential:
        layers: dict[str, nn.Module] = {
            "conv": _conv(in_channels, self.hidden, stride=2, padding=2),
            "norm": BatchStatNorm2d(self.hidden),
            "pool": nn.MaxPool2d(2),
            "relu": nn.ReLU(),
        }
        return nn.Sequential(OrderedDict((name, layers[name]) for name in order))

    def reset_parameters(self) -> None:
        """Draw the initial values anew from torch's generator."""
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                _zero_bias(module)
            elif isinstance(module, BatchStatNorm2d):
                module.reset_parameters()
        nn.init.ones_(self.classifier.weight)
        _zero_bias(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, in_channels, 28, 28] to logits [B, n_way]."""
        x = self.features(checked_images(x, self.in_channels, self.image_size))
        return self.classifier(x.flatten(1))


class MLP(nn.Module):
    """Linear layers with ReLU between them, for vectors [B, sizes[0]] or images that flatten to as many numbers.

    Args:
        sizes: features of the input, of every hidden layer, and of the output: ``(784, 64, 64, 5)``.
        init_std: standard deviation of the initial weights, which are normal; biases start at zero.
        relu_output: a ReLU on the output too, as a tutorial has it. Off by default: it leaves every class whose logit
            falls below zero without a gradient.

    Raises:
        ValueError: for fewer than two sizes, a size below 1, or a negative ``init_std``; from ``forward``, for inputs
            of another number of features.
    """

    def __init__(self, sizes: Sequence[int], *, init_std: float = 0.01, relu_output: bool = False) -> None:
        super().__init__()
        sizes = tuple(sizes)
        if len(sizes) < 2:
            raise ValueError(f"sizes must name at least the input's and the output's features, got {sizes}")
        _check_sizes(**{f"sizes[{i}]": size for i, size in enumerate(sizes)})
        if not init_std >= 0:
            raise ValueError(f"init_std must not be negative, got {init_std!r}")
        self.features = sizes[0]
        self.init_std = init_std
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.utils.skip_init(nn.Linear, fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers if relu_output else layers[:-1])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew from torch's generator."""
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.init_std)
                _zero_bias(module)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, ...] to outputs [B, sizes[-1]]."""
        return self.layers(checked_vectors(x, self.features))


@per_image
@traced_as_one
def checked_images(x: Tensor, channels: int, size: int) -> Tensor:
    """Return x if it is [B, channels, size, size]; raise a ``ValueError`` that says what it is otherwise."""
    if x.dim() != 4 or tuple(x.shape[1:]) != (channels, size, size):
        raise ValueError(
            f"the model was made for images [B, {channels}, {size}, {size}], got {list(x.shape)}; "
            f"resize the images, or give the model their in_channels and image_size"
        )
    return x


@per_image
@traced_as_one
def checked_vectors(x: Tensor, features: int) -> Tensor:
    """Return x [B, ...] as [B, features]; raise a ``ValueError`` that says what it is if it has other than so many."""
    if x.dim() < 2 or math.prod(x.shape[1:]) != features:
        raise ValueError(f"the model was made for inputs [B, ...] of {features} features each, got {list(x.shape)}")
    return x.flatten(1)


def _conv(in_channels: int, out_channels: int, *, stride: int, padding: int) -> nn.Module:
    return nn.utils.skip_init(nn.Conv2d, in_channels, out_channels, 3, stride=stride, padding=padding)


def _zero_bias(module: nn.Module) -> None:
    nn.init.zeros_(module.get_parameter("bias"))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")

"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from maml_fast._arguments import flag, int_from, many, number, takes
from maml_fast.models._inputs import checked_vectors
from maml_fast.models._layers import zero_bias

__all__ = ["MLP"]


class MLP(nn.Module):
    """Linear layers with ReLU between them, for vectors [B, sizes[0]] or images that flatten to such vectors.

    Args:
        sizes: features of the input, of every hidden layer, and of the output, such as ``(784, 64, 64, 5)``.
        init_std: standard deviation of the initial weights, which are normal; biases start at zero.
        relu_output: whether the output has a ReLU too, as in a tutorial. Off by default, because a class whose logit
            falls below zero then gets no gradient.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if there are fewer than two sizes, a size is below 1, or ``init_std`` is negative; ``forward``
            raises it for inputs with another number of features.
    """

    @takes(sizes=many(int_from(1)), init_std=number(least=0), relu_output=flag)
    def __init__(self, sizes: Sequence[int], *, init_std: float = 0.01, relu_output: bool = False) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes must name at least the input's and the output's features, got {sizes}")
        self.features = sizes[0]
        self.init_std = init_std
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.utils.skip_init(nn.Linear, fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers if relu_output else layers[:-1])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values from torch's generator."""
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.init_std)
                zero_bias(module)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, ...] to outputs [B, sizes[-1]]."""
        return self.layers(checked_vectors(x, self.features))

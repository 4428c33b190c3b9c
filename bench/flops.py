"""The arithmetic floor: the floating-point operations that an iteration needs, with direct convolutions.

Counted are the multiply-adds (two operations each) of the convolutions and the linear layer; taps on zero padding are
left out. A layer's pass is one *product* forward, one for the weights' gradient and one for the data's, which the first
layer does not need: the pixels need no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layer(NamedTuple):
    """A convolution or linear layer; the numbers are for one image."""

    multiply_adds: float
    outputs: int
    first: bool  # reads the pixels
    convolution: bool = True

    @property
    def forward_backward(self) -> int:
        """Products of a forward and a backward pass."""
        return 2 if self.first else 3

    @property
    def hessian_vector(self) -> int:
        """Products that the second order of one inner step adds."""
        return 2 if self.first else 6


def layers(model: nn.Module, image_shape: tuple[int, ...]) -> list[Layer]:
    """The model's convolutions and linear layers, in the order in which they run."""
    found: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        adds, outputs = _multiply_adds(module, inputs[0][:1]), output[0].numel()
        found.append(Layer(adds, outputs, first=not found, convolution=isinstance(module, nn.Conv2d)))

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model(torch.rand(2, *image_shape))  # two images: batch norm refuses one value a channel
    for hook in hooks:
        hook.remove()
    return found


def _multiply_adds(module: nn.Module, x: Tensor) -> float:
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    assert isinstance(module, nn.Conv2d)
    assert module.groups == 1
    assert module.padding_mode == "zeros"
    return convolution_multiply_adds(
        x.shape[1:], module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation
    )


def convolution_multiply_adds(
    image_shape: Sequence[int], out_channels: int, kernel: Any, stride: Any, padding: Any, dilation: Any = 1
) -> float:
    """Return the multiply-adds for one image, as the convolution of an image of ones with a kernel of ones."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    ones, taps = torch.ones(1, *image_shape), torch.ones(1, image_shape[0], *kernel)
    return out_channels * float(F.conv2d(ones, taps, None, stride, padding, dilation).double().sum())


def of_a_task(net: Sequence[Layer], support: int, query: int, steps: int, order: int, passing: int = 0) -> float:
    """Operations of one task: inner steps on the support images, the query's loss and gradient.

    ``passing`` is how often the query is scored without a gradient.
    """
    forward = sum(layer.multiply_adds for layer in net)
    forward_backward = sum(layer.forward_backward * layer.multiply_adds for layer in net)
    second_order = sum(layer.hessian_vector * layer.multiply_adds for layer in net) if order == 2 else 0.0
    return 2 * (steps * support * (forward_backward + second_order) + query * (forward_backward + passing * forward))

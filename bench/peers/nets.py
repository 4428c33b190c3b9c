"""Networks as functions of a list of parameters, in the order in which the module of the same name lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maml_fast.nn import BatchStatNorm2d

Parameters = Sequence[Tensor]
Network = Callable[[Parameters, Tensor], Tensor]


def library_batch_norm(y: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Tensor:
    if gamma is None and beta is not None:
        gamma = torch.ones_like(beta)  # PyTorch's double backward fails on a shift without a scale
    return F.batch_norm(y, None, None, gamma, beta, training=True, eps=eps)


def elementary_batch_norm(y: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Tensor:
    mean = y.mean(dim=(0, 2, 3), keepdim=True)
    variance = y.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
    z = (y - mean) / (variance + eps).sqrt()
    if gamma is not None:
        z = z * gamma.reshape(1, -1, 1, 1)
    return z if beta is None else z + beta.reshape(1, -1, 1, 1)


class LibraryBatchNorm(nn.Module):
    """``library_batch_norm`` with the parameters of a model's own, which is in elementary operations and slower."""

    def __init__(self, norm: BatchStatNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return library_batch_norm(x, self.weight, self.bias, self.eps)


def with_values(model: nn.Module, start: Sequence[Tensor]) -> nn.Module:
    """The model with copies of these in the place of its parameters, in their dtype and on their device."""
    model = model.to(start[0])
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), start, strict=True):
            parameter.copy_(value)
    return model


def with_library_batch_norm(model: nn.Module) -> nn.Module:
    """The model, its batch norms exchanged in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchStatNorm2d):
                setattr(parent, name, LibraryBatchNorm(child))
    return model


@dataclass(frozen=True)
class ConvNet:
    """Blocks of layers, each named in order, then a linear classifier on the flattened or averaged features.

    Without the classifier's parameters the features themselves come out.
    """

    blocks: tuple[tuple[str, ...], ...]
    stride: int = 1
    padding: int = 1
    gamma: bool = True
    eps: float = 1e-5
    average: bool = False
    batch_norm: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor] = library_batch_norm

    def __call__(self, parameters: Parameters, x: Tensor) -> Tensor:
        left = list(parameters)
        for layer in (layer for block in self.blocks for layer in block):
            if layer == "conv":
                x = F.conv2d(x, left.pop(0), left.pop(0), stride=self.stride, padding=self.padding)
            elif layer == "norm":
                gamma = left.pop(0) if self.gamma else None
                x = self.batch_norm(x, gamma, left.pop(0), self.eps)
            elif layer == "relu":
                x = F.relu(x)
            elif layer == "pool":
                x = F.max_pool2d(x, 2)
        features = x.mean(dim=(2, 3)) if self.average else x.flatten(1)
        return F.linear(features, *left) if left else features

    def with_elementary_batch_norm(self) -> ConvNet:
        """The same function, for functional transforms: over ``F.batch_norm`` their second order is wrong."""
        return replace(self, batch_norm=elementary_batch_norm)


CONV4 = ConvNet((("conv", "norm", "relu", "pool"),) * 4)
STRIDED = ConvNet((("conv", "norm", "relu"),) * 4, stride=2, gamma=False, eps=1e-3, average=True)
TUTORIAL = ConvNet((("conv", "norm", "pool", "relu"),) * 3 + (("conv", "relu", "norm", "pool"),), stride=2, padding=2)

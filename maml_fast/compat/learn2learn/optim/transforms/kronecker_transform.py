"""Transforms that are Kronecker products."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from maml_fast._arguments import flag, takes
from maml_fast.compat.learn2learn.optim.transforms.module_transform import ReshapedTransform

__all__ = ["KroneckerTransform"]


class KroneckerTransform:
    """Makes a module of gradients as matrices, such as ``nn.KroneckerLinear``.

    A matrix [n, m] stays one, a bias [n] becomes [n, 1], and the filters [Cout, Cin, H, W] of a convolution become Cout
    matrices [Cin, H * W].

    Args:
        kronecker_cls: called as ``kronecker_cls(n=n, m=m, bias=bias, psd=psd)``.
        bias: whether the transforms add a bias.
        psd: whether the transforms are positive semi-definite.

    Source: Arnold et al. 2019, When MAML can adapt fast and how to assist when it cannot.
    """

    @takes(bias=flag, psd=flag)
    def __init__(self, kronecker_cls: Callable[..., nn.Module], bias: bool = False, psd: bool = True) -> None:
        self.kronecker_cls = kronecker_cls
        self.bias = bias
        self.psd = psd

    def __call__(self, param: Tensor) -> ReshapedTransform:
        """Return the transform of a parameter's gradients."""
        n, m = _matrix(param)
        return ReshapedTransform(self.kronecker_cls(n=n, m=m, bias=self.bias, psd=self.psd), (-1, n, m))


def _matrix(param: Tensor) -> tuple[int, int]:
    shape = param.shape
    if len(shape) == 1:
        return shape[0], 1
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 4:
        return shape[1], shape[2] * shape[3]
    raise NotImplementedError(f"KroneckerTransform takes parameters of 1, 2 or 4 dimensions, got {list(shape)}")

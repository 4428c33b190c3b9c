"""Pure-PyTorch versions of the native kernels: the reference that kernels are tested against, and the fallback.

Each function has the signature of its counterpart in :mod:`maml_fast.ops` and consists of elementary, differentiable
operations, so autograd (any order), ``torch.func`` and ``torch.compile`` work on it as on any PyTorch code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["batch_norm", "conv_block", "conv_block_by_statistics", "conv_block_with_statistics"]


def batch_norm(y: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> Tensor:
    """Normalize by the batch's own biased statistics, per task and channel (Ioffe & Szegedy 2015, eq. 1-4).

    The operations are elementary on purpose: ``vmap(grad(F.batch_norm))`` silently gives a wrong second-order gradient.
    y is [T, B, C, H, W]; gamma and beta are [T, C] or ``None``.
    """
    mean = y.mean(dim=(1, 3, 4), keepdim=True)  # [T, 1, C, 1, 1]
    centered = y - mean
    variance = (centered * centered).mean(dim=(1, 3, 4), keepdim=True)
    return _scaled(centered * torch.rsqrt(variance + eps), gamma, beta)


def conv_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    pool: int | None = 2,
    eps: float = 1e-5,
    relu_first: bool = False,
) -> Tensor:
    """Like :func:`maml_fast.ops.conv_block`, which describes shapes and meaning."""
    y = _to_be_normalized(x, weight, bias, stride, padding, relu_first)
    return _normalized(y, gamma, beta, pool, eps, relu_first)


def conv_block_with_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    pool: int | None = 2,
    eps: float = 1e-5,
    relu_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Like :func:`maml_fast.ops.conv_block_with_statistics`, which describes shapes and meaning."""
    y = _to_be_normalized(x, weight, bias, stride, padding, relu_first)
    variance, mean = torch.var_mean(y.detach(), dim=(1, 3, 4), correction=0)
    return _normalized(y, gamma, beta, pool, eps, relu_first), mean, variance


def conv_block_by_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    mean: Tensor,
    variance: Tensor,
    stride: int = 1,
    padding: int = 1,
    pool: int | None = 2,
    eps: float = 1e-5,
    relu_first: bool = False,
) -> Tensor:
    """Like :func:`maml_fast.ops.conv_block`, but normalize by a given mean and variance, [Cout] for all tasks.

    There is no native version: meta-training, which has to be fast, uses the batch's own statistics.
    """
    y = _to_be_normalized(x, weight, bias, stride, padding, relu_first)
    z = (y - mean[:, None, None]) * torch.rsqrt(variance + eps)[:, None, None]
    return _activated(_scaled(z, gamma, beta), pool, relu_first)


def _to_be_normalized(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, relu_first: bool
) -> Tensor:
    # One convolution per task: a grouped convolution would issue one more per group in its double backward. Tensors are
    # made contiguous, because with some other strides PyTorch's convolutions raise an error in their second derivative,
    # or write out of bounds.
    x, weight = x.contiguous(), weight.contiguous()
    y = torch.stack(
        [
            F.conv2d(x[t], weight[t], None if bias is None else bias[t], stride=stride, padding=padding)
            for t in range(x.shape[0])
        ]
    )  # [T, B, Cout, OH, OW]
    return y.relu() if relu_first else y


def _normalized(
    y: Tensor, gamma: Tensor | None, beta: Tensor | None, pool: int | None, eps: float, relu_first: bool
) -> Tensor:
    return _activated(batch_norm(y, gamma, beta, eps), pool, relu_first)


def _scaled(z: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    if gamma is not None:
        z = z * gamma[:, None, :, None, None]
    if beta is not None:
        z = z + beta[:, None, :, None, None]
    return z


def _activated(z: Tensor, pool: int | None, relu_first: bool) -> Tensor:
    z = z if relu_first else z.relu()
    return z if pool is None else F.max_pool2d(z.flatten(0, 1), pool).unflatten(0, z.shape[:2])

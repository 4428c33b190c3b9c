"""``conv_block`` with torch's own layers, one task after another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from peers.nets import library_batch_norm


def per_task_block(
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
    outs = []
    for t in range(x.shape[0]):
        own_bias, own_gamma, own_beta = (None if p is None else p[t] for p in (bias, gamma, beta))
        y = F.conv2d(x[t], weight[t], own_bias, stride=stride, padding=padding)
        if relu_first:
            z = library_batch_norm(y.relu(), own_gamma, own_beta, eps)
        else:
            z = library_batch_norm(y, own_gamma, own_beta, eps).relu()
        outs.append(z if pool is None else F.max_pool2d(z, pool))
    return torch.stack(outs)

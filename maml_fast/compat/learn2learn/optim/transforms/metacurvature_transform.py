"""Meta-Curvature: a learned linear map along every dimension of a gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maml_fast._arguments import number, takes, tensor, tensor_or

__all__ = ["MetaCurvatureTransform"]


class MetaCurvatureTransform(nn.Module):
    """Transforms the gradients of one parameter; at first by the identity.

    Args:
        param: the parameter, of 1, 2 or 4 dimensions.
        lr: a fixed factor of the update.

    Source: Park & Oliva 2019, Meta-Curvature, section 3.
    """

    @takes(param=tensor, lr=tensor_or(number()))
    def __init__(self, param: Tensor, lr: float | Tensor = 1.0) -> None:
        super().__init__()
        self.lr = lr
        self.dim = param.dim()
        if self.dim == 1:
            self.mc = nn.Parameter(torch.ones_like(param))
        elif self.dim in (2, 4):
            self.mc_in = _identity(param.shape[0], param)
            self.mc_out = _identity(param.shape[1], param)
            if self.dim == 4:
                self.mc_f = _identity(param.shape[2] * param.shape[3], param)
        else:
            raise NotImplementedError(f"Meta-Curvature takes parameters of 1, 2 or 4 dimensions, got {self.dim}")

    def forward(self, grad: Tensor) -> Tensor:
        """Return the update of a gradient, of the same shape."""
        if self.dim == 1:
            return self.lr * (self.mc * grad)
        if self.dim == 2:
            return self.lr * (self.mc_in @ grad @ self.mc_out)
        first, second, height, width = grad.shape
        pixels = height * width
        by_pixel = grad.permute(2, 3, 0, 1).reshape(-1, second)  # [H * W * Cout, Cin]
        mapped = self.mc_f @ (by_pixel @ self.mc_out).view(pixels, -1)  # [H * W, Cout * Cin]
        by_filter = mapped.view(pixels, first, second).permute(1, 0, 2).reshape(first, -1)  # [Cout, H * W * Cin]
        update = (self.mc_in @ by_filter).view(first, height, width, second)
        return self.lr * update.permute(0, 3, 1, 2).contiguous()


def _identity(n: int, like: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.eye(n, dtype=like.dtype, device=like.device))

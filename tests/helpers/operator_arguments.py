"""What the private operators of ``conv_block`` are called with."""

from __future__ import annotations

import torch
from op_table import Case, tensors

from maml_fast.ops._conv_block import Arithmetic

GEOMETRY = (1, 1, True, 1e-5, False, Arithmetic.EXACT.value)


def operator_arguments(in_channels: int = 5, device: str | torch.device = "cpu") -> tuple[tuple, tuple, tuple]:
    """Arguments of the three private operators, as the autograd Functions give them; a thin block's with 3 channels."""
    case = Case("operators", in_channels=in_channels)
    x, weight, bias, gamma, beta = (t.to(device) for t in tensors(case, torch.float64, requires_grad=False))
    x = x.permute(0, 1, 3, 4, 2).contiguous()
    weight = weight.permute(0, 3, 4, 2, 1).contiguous()
    forward = (x, weight, bias, gamma, beta, *GEOMETRY)
    out, kept, *statistics = torch.ops.maml_fast.conv_block_forward(*forward)
    grad_out = torch.randn_like(out)
    grad_y = torch.randn_like(kept) if kept.dim() == 5 else None
    saved = (x, weight, gamma, kept, *statistics)
    backward = (grad_out, grad_y, *saved, *GEOMETRY, True)
    gg = torch.ops.maml_fast.conv_block_backward(*backward)
    return forward, backward, (*(torch.randn_like(g) for g in gg), grad_out, *saved, *GEOMETRY, True)

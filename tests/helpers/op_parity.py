"""When two implementations of ``conv_block`` agree: in values, first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from op_table import CASES, Case, tensors
from peers.block import per_task_block
from torch import Tensor

from maml_fast import _reference as reference
from maml_fast import native, ops

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def derivatives(
    block, case: Case, dtype: torch.dtype, values: torch.dtype | None = None, of_pixels: bool = True
) -> dict[str, Tensor]:
    """Output, first and second derivatives along fixed random directions, from values drawn in their own dtype."""
    values = values or dtype
    arguments = [None if a is None else a.to(dtype).detach().requires_grad_() for a in tensors(case, values)]
    arguments[0].requires_grad_(of_pixels)
    inputs = {n: a for n, a in zip(("x", "weight", "bias", "gamma", "beta"), arguments, strict=True) if a is not None}
    if not of_pixels:
        del inputs["x"]
    generator = torch.Generator().manual_seed(1)

    def direction(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=values, generator=generator).to(dtype)

    out = block(*arguments, **case.options)
    grad_out = direction(out).requires_grad_()
    first = torch.autograd.grad(out, list(inputs.values()), grad_out, create_graph=True)
    along = sum((direction(grad) * grad).sum() for grad in first)
    targets = {"grad_out": grad_out, **inputs}
    second = torch.autograd.grad(along, list(targets.values()), materialize_grads=True)
    return {
        "out": out.detach(),
        **{f"d {name}": grad.detach() for name, grad in zip(inputs, first, strict=True)},
        **{f"dd {name}": grad for name, grad in zip(targets, second, strict=True)},
    }


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    scale = max(float(e.abs().max()) for e in expected.values())  # for what is zero: a bias under batch norm
    for name, e in expected.items():
        error = float((actual[name] - e).abs().max()) / max(float(e.abs().max()), 0.1 * scale)
        assert error < TOLERANCE[dtype], f"{name}: relative error {error:.1e}"


def assert_equals_reference(block: Callable[..., Tensor], case: Case, dtype: torch.dtype) -> None:
    """float32 too is held against the reference in float64: what is judged is our rounding, not the reference's."""
    truth = derivatives(reference.conv_block, case, torch.float64, values=dtype)
    assert_close(derivatives(block, case, dtype), truth, dtype)


FAR_FROM_ZERO = (1.0, 10.0, 100.0, 1000.0, 10000.0)  # means of pixels whose deviation is 1


def assert_rounds_no_worse_than_torch(center: float, in_channels: int, of_pixels: bool) -> None:
    """In float32, on pixels of this mean: the error grows with the mean, not with its square as PyTorch's does."""
    options = {"size": (11, 12), "out_channels": 8, "padding": 0, "pool": None, "level": 30.0}
    case = Case("far from zero", in_channels=in_channels, center=center, **options)
    truth = derivatives(reference.conv_block, case, torch.float64, torch.float32, of_pixels)

    def error(block: Callable[..., Tensor]) -> float:
        found = derivatives(block, case, torch.float32, of_pixels=of_pixels)
        parts = [name for name in truth if "bias" not in name]  # whose derivatives are zero
        return max(float((found[name] - truth[name]).norm() / truth[name].norm()) for name in parts)

    ours, theirs = error(ops.conv_block), error(per_task_block)
    assert ours < 3 * theirs + 2e-6
    assert ours < 2e-6 * (2 + center)


class ConvBlocks:
    """``ops.conv_block`` in a process of its own."""

    def require_parity(self) -> str:
        """On every case, and say what ran."""
        for case in CASES:
            for dtype in (torch.float64, torch.float32):
                assert_equals_reference(ops.conv_block, case, dtype)
        for center in FAR_FROM_ZERO:
            assert_rounds_no_worse_than_torch(center, in_channels=9, of_pixels=True)
        return str(native.backend())

    def close(self) -> None: ...

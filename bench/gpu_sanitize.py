"""Every kernel for GPUs on small shapes, at every precision: a program for compute-sanitizer to watch.

The tests check the values; here the results must be finite, and the episodes must equal those of the CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maml_fast import native, ops
from maml_fast.data import EpisodeSampler
from maml_fast.data._noise import make_noise
from maml_fast.inner_loop._cross_entropy import class_losses, has_class_losses
from maml_fast.inner_loop._losses import cross_entropy_of_tasks
from maml_fast.inner_loop._metric import IGNORED

ARITHMETICS = {  # of float32: PyTorch's setting, and autocast's type
    "exact": ("highest", None),
    "TF32": ("high", None),
    "bfloat16": ("highest", torch.bfloat16),
    "float16": ("highest", torch.float16),
}


class Shape(NamedTuple):
    """A block's arguments.

    ``shared``: all tasks have the same parameters, in the same memory. ``of_pixels``: x takes a gradient.
    """

    in_channels: int
    channels: int
    size: tuple[int, int]
    kernel: int = 3
    affine: bool = True
    shared: bool = False
    of_pixels: bool = True
    options: dict[str, Any] = {}  # noqa: RUF012 - never written to

    def tensors(self, dtype: torch.dtype, device: str) -> list[Tensor | None]:
        """x, weight, bias, gamma, beta of two tasks with three images each."""
        generator = torch.Generator().manual_seed(0)

        def make(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=dtype, generator=generator).to(device).requires_grad_()

        def parameter(*shape: int) -> Tensor:
            return make(*shape).expand(2, *shape) if self.shared else make(2, *shape)

        x = make(2, 3, self.in_channels, *self.size).requires_grad_(self.of_pixels)
        weight = parameter(self.channels, self.in_channels, self.kernel, self.kernel)
        per_channel = [parameter(self.channels) if self.affine else None for _ in range(3)]
        return [x, weight, *per_channel]


SHAPES = (
    Shape(1, 16, (14, 14)),
    Shape(1, 70, (14, 37), of_pixels=False),
    Shape(3, 7, (9, 8), of_pixels=False, shared=True, options={"pool": None, "stride": 2}),
    Shape(16, 20, (7, 9), shared=True),
    Shape(65, 70, (4, 4)),  # across the edges of the tiles
    Shape(64, 64, (5, 5), options={"pool": None, "stride": 2}),
    Shape(5, 8, (9, 9), options={"stride": 2, "padding": 2, "relu_first": True}),
    Shape(4, 6, (8, 8), kernel=1, options={"padding": 0}),
    Shape(3, 7, (16, 13), kernel=5, affine=False, options={"padding": 2, "stride": 3}),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gpu_sanitize.py", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to see that it runs")
    device = parser.parse_args(arguments).device
    if device == "cuda" and not native.has_cuda_kernels():
        sys.exit(f"gpu_sanitize.py: error: no kernels for GPUs, {native.backend()}: see `maml-fast doctor`")
    for shape in SHAPES:
        run_block(shape, torch.float64, device)
        for name in ARITHMETICS:
            with arithmetic(name, device):
                run_block(shape, torch.float32, device)
    for dtype in (torch.float64, torch.float32):
        run_losses(dtype, device)
    draw_episodes(device)
    shapes = f"{len(SHAPES)} shapes in float64 and in float32 {', '.join(ARITHMETICS)}"
    print(f"{shapes}; losses; episodes: all ran on {device}")


@contextmanager
def arithmetic(name: str, device: str) -> Iterator[None]:
    """Set the precision of float32 products inside the block."""
    precision, half = ARITHMETICS[name]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast(device, dtype=half, enabled=half is not None):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def run_block(shape: Shape, dtype: torch.dtype, device: str) -> None:
    """Forward, backward and double backward."""
    tensors = shape.tensors(dtype, device)
    out = ops.conv_block(*tensors, **shape.options)
    inputs = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    along = torch.ones_like(out, requires_grad=True)
    first = torch.autograd.grad(out, inputs, along, create_graph=True)
    total = torch.stack([gradient.square().mean() for gradient in first]).sum()  # small enough for float16's factors
    second = torch.autograd.grad(total, [along, *inputs], materialize_grads=True)
    if not all(bool(tensor.isfinite().all()) for tensor in (out, *first, *second)):
        raise ArithmeticError(f"{shape} in {dtype} gives numbers that are not finite")


def run_losses(dtype: torch.dtype, device: str) -> None:
    """Cross-entropy of three tasks with 70 predictions each, and its derivatives."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 70, 5, dtype=dtype, generator=generator).to(device).requires_grad_()
    labels = torch.randint(5, (3, 70), generator=generator)
    labels[1, :4] = IGNORED
    labels = labels.to(device)
    losses_of = class_losses if has_class_losses(logits, labels) else cross_entropy_of_tasks
    losses = losses_of(logits, labels)
    (first,) = torch.autograd.grad(losses.sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), logits)
    if not all(bool(tensor.isfinite().all()) for tensor in (losses, first, second)):
        raise ArithmeticError(f"the cross-entropy in {dtype} gives numbers that are not finite")


def draw_episodes(device: str) -> None:
    """Draw episodes with every option of the sampler's kernels."""
    bank = make_noise(7, 6, (2, 10, 10))
    for options in ({}, {"rotate": True, "scale": "inverted", "seed": 2**64 - 1}):
        drawn, expected = (EpisodeSampler(bank, 3, 2, 4, 5, **options, device=d).batch(1) for d in (device, "cpu"))
        if not all(map(torch.equal, drawn.to("cpu"), expected)):
            raise ArithmeticError(f"the sampler draws other episodes on {device} than on the CPU, with {options}")


if __name__ == "__main__":
    main()

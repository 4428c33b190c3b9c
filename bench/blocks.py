"""Single conv blocks of the workloads: their shapes, their passes, and their implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import flops
import torch
from peers.block import per_task_block
from torch import Tensor

from maml_fast import _reference as reference
from maml_fast import native, ops

Pass = Literal["forward", "backward", "double backward"]  # each is run after those before it
PASSES: tuple[Pass, ...] = ("forward", "backward", "double backward")


@dataclass(frozen=True)
class Block:
    """One block of a network at the size at which a meta-batch reaches it. A new one is an entry in ``BLOCKS``."""

    net: str
    number: int  # in the net, from 1
    tasks: int
    images: int  # of a task
    in_channels: int
    size: int
    channels: int = 64
    stride: int = 1
    padding: int = 1
    relu_first: bool = False
    passes: tuple[Pass, ...] = PASSES
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The block's name in tables."""
        shape = f"{self.size}×{self.size}×{self.in_channels}"
        return f"{self.net} block {self.number}, {self.tasks} tasks × {self.images} images of {shape}"

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of ``conv_block``."""
        return {"stride": self.stride, "padding": self.padding, "relu_first": self.relu_first}

    def of_tasks(self, tasks: int) -> Block:
        """Return the same block with fewer tasks."""
        return replace(self, tasks=min(tasks, self.tasks))

    def flops(self, until: Pass) -> float:
        """Return the operations of all passes up to this one, counted as for the floor."""
        image = (self.in_channels, self.size, self.size)
        one = flops.convolution_multiply_adds(image, self.channels, 3, self.stride, self.padding)
        layer = flops.Layer(one, 0, first=self.number == 1)
        products = {
            "forward": 1,
            "backward": layer.forward_backward,
            "double backward": layer.forward_backward + layer.hessian_vector,
        }
        return 2.0 * self.tasks * self.images * one * products[until]

    def tensors(self, dtype: torch.dtype) -> list[Tensor]:
        """Return x, weight, bias, gamma, beta; the pixels of the first block need no gradient."""
        generator = torch.Generator().manual_seed(0)

        def make(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(self.device, dtype)

        x = make(self.tasks, self.images, self.in_channels, self.size, self.size)
        weight = make(self.tasks, self.channels, self.in_channels, 3, 3) / (3 * self.in_channels**0.5)
        per_channel = [make(self.tasks, self.channels) for _ in range(3)]
        parameters = [tensor.requires_grad_() for tensor in (weight, *per_channel)]
        return [x.requires_grad_(self.number > 1), *parameters]


def _net(
    name: str, tasks: int, support: int, query: int, inputs: Sequence[tuple[int, int]], **options: Any
) -> list[Block]:
    """Return a net's blocks on a support set, and on a query set without second order; inputs: channels and size."""
    return [
        Block(name, number, tasks, images, in_channels, size, passes=passes, **options)
        for number, (in_channels, size) in enumerate(inputs, start=1)
        for images, passes in ((support, PASSES), (query, PASSES[:2]))
    ]


_CONV4_64 = _net("Conv4-64", 32, 5, 75, ((1, 28), (64, 14), (64, 7), (64, 3)))
_TUTORIAL = [
    replace(block, relu_first=block.number == 4)
    for block in _net("tutorial's net", 8, 5, 75, ((1, 28), (64, 7), (64, 2), (64, 1)), stride=2, padding=2)
]
_CONV4_32 = _net("Conv4-32", 4, 25, 75, ((3, 84), (32, 42), (32, 21), (32, 10)), channels=32)

BLOCKS = (*_CONV4_64, *_TUTORIAL, *_CONV4_32)
QUERY_OF_W3 = tuple(block for block in _CONV4_64 if block.images == 75)
QUICK = (
    Block("small", 1, 2, 3, 1, 8, channels=4),
    Block("small", 2, 2, 3, 4, 7, channels=4, stride=2, padding=2, relu_first=True),
)

ConvBlock = Callable[..., Tensor]


def implementations(device: str = "cpu") -> dict[str, ConvBlock]:
    """Return the implementations, beginning with the one that others are compared with."""
    found: dict[str, ConvBlock] = {"per-task torch": per_task_block, "reference": reference.conv_block}
    has_native = native.has_cuda_kernels() if device == "cuda" else native.library() is not None
    return {**found, "native": ops.conv_block} if has_native else found


def run(block: Block, conv_block: ConvBlock, tensors: Sequence[Tensor], until: Pass) -> list[Tensor]:
    """Run all passes up to this one along fixed directions; return the result of the last one."""
    if until == "forward":
        with torch.no_grad():
            return [conv_block(*tensors, **block.options)]
    out = conv_block(*tensors, **block.options)
    inputs = [tensor for tensor in tensors if tensor.requires_grad]
    direction = _direction(out)
    if until == "backward":
        return list(torch.autograd.grad(out, inputs, direction))
    direction.requires_grad_()
    first = torch.autograd.grad(out, inputs, direction, create_graph=True)
    along = [_direction(gradient) for gradient in first]
    return list(torch.autograd.grad(first, [direction, *inputs], along, materialize_grads=True))


def _direction(like: Tensor) -> Tensor:
    """Return cheap pseudo-random numbers, sin(0), sin(1), ..., in the memory format of ``like``."""
    numbers = torch.arange(like.numel(), dtype=like.dtype, device=like.device).sin_().reshape(like.shape)
    return torch.empty_like(like, requires_grad=False).copy_(numbers)

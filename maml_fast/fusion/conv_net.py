"""Recognises a net of conv blocks and a linear classifier, whose whole inner loop has a native form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import NamedTuple

from torch import Tensor
from torch.fx import Node

from maml_fast import ops
from maml_fast.fusion import task_steps as steps
from maml_fast.fusion.task_program import TaskProgram
from maml_fast.fusion.task_steps import Step

__all__ = ["Block", "ConvNet", "read_conv_net"]


class Block(NamedTuple):
    """One conv block: its parameters' names and its geometry, as :func:`maml_fast.ops.conv_block` takes it."""

    weight: str
    bias: str | None
    gamma: str | None
    beta: str | None
    stride: int
    padding: int
    pool: int | None
    eps: float
    relu_first: bool


class ConvNet(NamedTuple):
    """images [T, N, C, H, W] -> ``before`` -> blocks -> the pixels, or their mean -> linear classifier."""

    before: tuple[Step, ...]
    blocks: tuple[Block, ...]
    mean_over_pixels: bool
    classifier: str
    classifier_bias: str | None

    def names(self) -> list[str]:
        """All parameters, in the order in which the native kernels take them."""
        return [*self.names_of_blocks(), self.classifier, *([self.classifier_bias] if self.classifier_bias else [])]

    def names_of_blocks(self) -> list[str]:
        """The blocks' parameters, which come first."""
        return [name for block in self.blocks for name in block[:4] if name is not None]

    def images(self, x: Tensor) -> Tensor:
        """x as the blocks take it, after what comes before them."""
        for step in self.before:
            x = step.run(x, *step.operands[1:])
        return x

    def description(self, parameters: Mapping[str, Tensor]) -> ops.NetDescription:
        """The net in numbers."""
        blocks: list[int] = []
        for block in self.blocks:
            out_channels, _, kernel, _ = parameters[block.weight].shape
            blocks += (out_channels, kernel, block.stride, block.padding, block.pool is not None, block.relu_first)
            blocks += (name is not None for name in (block.bias, block.gamma, block.beta))
        head = [self.mean_over_pixels, len(parameters[self.classifier]), self.classifier_bias is not None]
        return ops.NetDescription(blocks, [block.eps for block in self.blocks], head)

    def obstacle(self, parameters: Mapping[str, Tensor], x: Tensor) -> str | None:
        """What keeps images x [T, N, C, H, W] from native kernels, or from the net at all; ``None`` if nothing does."""
        if x.dim() != 5:
            return f"x {list(x.shape)} are no images"
        channels, *extents = x.shape[2:]
        for block in self.blocks:
            weight = parameters[block.weight]
            out_channels, in_channels, kernel, _ = weight.shape
            if in_channels != channels:
                return f"{channels} channels for a convolution of {in_channels}"
            if (found := ops.native_obstacle(x, weight[None], block.stride, block.pool)) is not None:
                return found
            extents = [ops.output_extent(extent, kernel, block.stride, block.padding, block.pool) for extent in extents]
            if min(extents) < 1:
                return f"no pixels are left after {block.weight}"
            channels = out_channels
        features = channels if self.mean_over_pixels else channels * extents[0] * extents[1]
        taken = parameters[self.classifier].shape[1]
        return None if features == taken else f"{features} features for a classifier of {taken}"


def read_conv_net(program: TaskProgram | str) -> ConvNet | str:
    """Return the net that a program is, or why it is none, or why there is no program."""
    if isinstance(program, str):
        return program
    sizes = {line.result: line.step for line in program.lines if line.step.run is steps.size}
    lines = [line for line in program.lines if line.result not in sizes]
    for line, taken in zip(lines, (program.input, *(line.result for line in lines)), strict=False):
        if line.step.operands[0] is not taken:
            return "its operations are no chain"
    chain = [line.step for line in lines if not _copies(line.step)]
    before = _first(chain, _is_per_image)
    blocks = [_block(step) for step in _first(chain[len(before) :], _is_block)]
    head = chain[len(before) + len(blocks) :]
    if not blocks:
        return "it does not begin with a conv block"
    if len(head) != 2 or head[1].run is not steps.linear or not (_flattens(head[0], sizes) or _averages(head[0])):
        return "its conv blocks are not followed by their pixels, or the pixels' mean, and one linear layer"
    _, weight, bias = head[1].operands
    net = ConvNet(tuple(before), tuple(blocks), _averages(head[0]), weight.name, bias.name if bias else None)
    return net if len(set(net.names())) == len(net.names()) else "parameters are tied"


def _copies(step: Step) -> bool:
    return step.run in (Tensor.clone, Tensor.contiguous)


def _first(chain: Sequence[Step], wanted: Callable[[Step], bool]) -> list[Step]:
    return list(takewhile(wanted, chain))


def _flattens(step: Step, sizes: Mapping[Node, Step]) -> bool:
    """``x.flatten(1)``, ``x.view(x.size(0), -1)`` and their like."""
    _, *rest = step.operands
    if step.run is steps.flatten:
        return rest in ([1, -1], [1, 3])
    of_batch = step.run is steps.reshape and len(rest) == 2 and rest[1] == -1 and rest[0] in sizes
    return of_batch and sizes[rest[0]].operands[1:] == (0,)


def _averages(step: Step) -> bool:
    """``x.mean(dim=(2, 3))``."""
    return step.run is steps.mean and step.operands[1:] in (((2, 3), False), ((-2, -1), False))


def _is_per_image(step: Step) -> bool:
    """What does the same to every image whatever the others are, and has no parameters."""
    plain = not any(isinstance(operand, (Node, steps.Weight)) for operand in step.operands[1:])
    return plain and isinstance(step.run, partial) and step.run.func is steps.fold


def _is_block(step: Step) -> bool:
    return steps.geometry_of_block(step) is not None


def _block(step: Step) -> Block:
    weight, *others = step.operands[1:]
    bias, gamma, beta = (None if operand is None else operand.name for operand in others)
    return Block(weight.name, bias, gamma, beta, **steps.geometry_of_block(step) or {})

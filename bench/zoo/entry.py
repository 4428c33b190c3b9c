"""What a net of the zoo is: a module as people write it, its inputs and targets, its loss, and the inner loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from peers.nets import ConvNet
from torch import Generator, Tensor, nn

from maml_fast.data import Episodes

Loss = Callable[[Tensor, Tensor], Tensor]
# of(tasks, images of a task, generator) -> inputs [T, N, ...] and targets [T, N, ...]
Draw = Callable[[int, int, Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Size:
    """How large a net is, and its meta-batch.

    Attributes:
        options: keyword arguments of the net.
        draw: makes inputs and targets that fit the net.
        support, queries: of a task.
        tasks: in a meta-batch.
        steps: of the inner loop.
    """

    options: Mapping[str, Any]
    draw: Draw
    support: int
    queries: int
    tasks: int
    steps: int


@dataclass(frozen=True, eq=False)
class Entry:
    """A net of the zoo, at the size that people train it and at one that a test has time for.

    Attributes:
        title: what it is, in words.
        build: makes the module from a size's options; it draws its weights from PyTorch's own generator.
        size, small: the two sizes.
        inner_lr: of the inner loop.
        loss_fn: of one task's outputs and targets.
        twin: the same as a function of parameters that JAX has too, where there is one.
        writes_buffers: ``forward`` moves buffers that it reads, as spectral norm does: every task has its own copies.
    """

    title: str
    build: Callable[..., nn.Module]
    size: Size
    small: Size
    inner_lr: float
    loss_fn: Loss = F.cross_entropy
    twin: ConvNet | None = field(default=None)
    writes_buffers: bool = False

    def model(self, size: Size) -> nn.Module:
        """The module, with the same weights and buffers at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build(**size.options)

    def episodes(self, size: Size, dtype: torch.dtype, number: int = 0) -> Episodes:
        """A meta-batch, drawn in float64 so that it is the same in every dtype."""
        generator = torch.Generator().manual_seed(number)
        sets = [size.draw(size.tasks, images, generator) for images in (size.support, size.queries)]
        return Episodes(*sets[0], *sets[1]).to(dtype)


def classes(n_way: int, *shape: int) -> Draw:
    """Random inputs [T, N, *shape] and as many of each class as of any other, in random order."""

    def draw(tasks: int, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        labels = torch.arange(images).remainder(n_way)
        shuffled = torch.stack([labels[torch.randperm(images, generator=generator)] for _ in range(tasks)])
        return _normal(generator, tasks, images, *shape), shuffled

    return draw


def values(outputs: int, *shape: int) -> Draw:
    """Random inputs [T, N, *shape] and random targets [T, N, outputs]."""

    def draw(tasks: int, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        return _normal(generator, tasks, images, *shape), _normal(generator, tasks, images, outputs)

    return draw


def yes_or_no(*shape: int) -> Draw:
    """Random inputs [T, N, *shape] and targets [T, N] that are 0.0 or 1.0 by turns."""

    def draw(tasks: int, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        targets = torch.arange(images, dtype=torch.float64).remainder(2).expand(tasks, -1).clone()
        return _normal(generator, tasks, images, *shape), targets

    return draw


def pixels(n_classes: int, *shape: int) -> Draw:
    """Random inputs [T, N, C, H, W] and a class for every pixel [T, N, H, W]."""

    def draw(tasks: int, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(n_classes, (tasks, images, *shape[1:]), generator=generator)
        return _normal(generator, tasks, images, *shape), labels

    return draw


def tokens(n_way: int, vocabulary: int, length: int) -> Draw:
    """Random sequences of int64 tokens [T, N, length] and classes [T, N]."""

    def draw(tasks: int, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        labels = classes(n_way, 1)(tasks, images, generator)[1]
        return torch.randint(vocabulary, (tasks, images, length), generator=generator), labels

    return draw


def itself(*shape: int) -> Draw:
    """Random inputs [T, N, *shape], which are their own targets."""

    def draw(tasks: int, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(tasks, images, *shape, generator=generator, dtype=torch.float64)
        return x, x.clone()

    return draw


def sines() -> Draw:
    """Points [T, N, 1] of Finn's waves: amplitudes of 0.1 to 5, phases of 0 to pi."""

    def draw(tasks: int, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        waves = torch.Generator().manual_seed(tasks)  # support and query points are of the same waves
        amplitude, phase = torch.rand(2, tasks, 1, 1, generator=waves, dtype=torch.float64)
        x = 10 * torch.rand(tasks, images, 1, generator=generator, dtype=torch.float64) - 5
        return x, (0.1 + 4.9 * amplitude) * torch.sin(x - torch.pi * phase)

    return draw


def coordinates(size: int, channels: int) -> Draw:
    """Places of an image's pixels [T, N, 2] in [-1, 1], chosen at random, and their colors [T, N, channels]."""

    def draw(tasks: int, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
        places = torch.randint(size, (tasks, images, 2), generator=generator).double()
        colors = torch.rand(tasks, images, channels, generator=generator, dtype=torch.float64)
        return 2 * places / (size - 1) - 1, colors

    return draw


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)

"""What is timed: one meta-training iteration each (inner loops, query loss, meta-gradient, Adam), in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import flops
import torch
from peers.inner_loop import Problem
from peers.nets import CONV4, TUTORIAL, ConvNet
from torch import Tensor, nn

from maml_fast.data import Episodes, EpisodeSampler, ImageBank
from maml_fast.data.noise import make_noise
from maml_fast.models import Conv4, TutorialNet

OMNIGLOT = (1623, 20)  # classes, images of each


@dataclass(frozen=True)
class Workload:
    """A network, episodes and an inner loop. A new one is an entry in ``WORKLOADS``.

    ``model`` makes the module that maml_fast trains, ``network`` is the same as a function of the module's parameters.
    ``scored`` are inner steps, besides the last, after which the query set is scored too.
    """

    name: str
    title: str
    model: Callable[[], nn.Module]
    network: ConvNet
    meta_batch_size: int
    inner_steps: int
    order: int
    inner_lr: float = 0.4
    meta_lr: float = 1e-3
    n_way: int = 5
    k_shot: int = 1
    k_query: int = 15
    image_shape: tuple[int, int, int] = (1, 28, 28)
    scored: tuple[int, ...] = ()

    def problem(self, elementary: bool = False) -> Problem:
        """The inner loop for the plain peers; ``elementary``: with batch norm in elementary operations."""
        network = self.network.with_elementary_batch_norm() if elementary else self.network
        adapted = range(len(_start(self.model)))
        return Problem(network, self.inner_steps, self.order, adapted, scored=self.scored)

    def start(self, dtype: torch.dtype) -> list[Tensor]:
        """The initial parameters: the model's own, moved a little, so that nothing is zero or equal by design."""
        return [parameter.to(dtype) for parameter in _start(self.model)]

    def sampler(self, meta_batch_size: int | None = None) -> EpisodeSampler:
        """Episodes of random images, as many classes and images as Omniglot has."""
        sizes = (self.n_way, self.k_shot, self.k_query, meta_batch_size or self.meta_batch_size)
        return EpisodeSampler(random_images(self.image_shape), *sizes)

    def episodes(self, dtype: torch.dtype = torch.float32) -> Episodes:
        """The meta-batch that everybody trains on."""
        return self.sampler().batch(0).to(dtype)

    def of_tasks(self, meta_batch_size: int) -> Workload:
        """The same with fewer tasks."""
        return replace(self, meta_batch_size=min(meta_batch_size, self.meta_batch_size))

    def layers(self) -> list[flops.Layer]:
        """The layers that the floor counts."""
        return flops.layers(self.model(), self.image_shape)

    def flops(self) -> float:
        """The floor's count for one iteration."""
        support, query = self.n_way * self.k_shot, self.n_way * self.k_query
        passing = len(self.scored)
        task = flops.of_a_task(self.layers(), support, query, self.inner_steps, self.order, passing)
        return self.meta_batch_size * task

    def output_bytes_of_a_task(self) -> float:
        """What the convolutions put out, in float32, for all that a task must remember."""
        images = self.n_way * (self.k_query + self.k_shot * (self.inner_steps if self.order == 2 else 1))
        return 4.0 * images * sum(layer.outputs for layer in self.layers())


@lru_cache
def _start(model: Callable[[], nn.Module]) -> Sequence[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [(p + 0.1 * torch.randn_like(p)).detach() for p in model().parameters()]


@lru_cache
def random_images(image_shape: tuple[int, int, int]) -> ImageBank:
    """Random pixels in Omniglot's shape."""
    return make_noise(*OMNIGLOT, image_shape)


_tutorial = partial(
    Workload,
    model=TutorialNet,
    network=TUTORIAL,
    meta_batch_size=8,
    inner_steps=5,
    order=1,
    inner_lr=0.04,
    meta_lr=2e-4,
    scored=(0, 2, 3, 4),  # not after the first step: so does the tutorial
)
_conv4 = partial(Workload, model=Conv4, network=CONV4, meta_batch_size=32)

WORKLOADS = (
    _tutorial("W1", "tutorial's net, 8 tasks, 5 steps, order 1"),
    _conv4("W2", "Conv4-64, 32 tasks, 1 step, order 2", inner_steps=1, order=2),
    _conv4("W3", "Conv4-64, 32 tasks, 5 steps, order 2", inner_steps=5, order=2),
)

_small = partial(Conv4, hidden=8, image_size=16)
QUICK = (
    _tutorial("Q1", "tutorial's net, 2 tasks, 2 steps, order 1", meta_batch_size=2, inner_steps=2, scored=(0,)),
    _conv4(
        "Q2",
        "Conv4-8 on 16x16, 2 tasks, 2 steps, order 2",
        model=_small,
        meta_batch_size=2,
        inner_steps=2,
        order=2,
        k_query=3,
        image_shape=(1, 16, 16),
    ),
)


def named(name: str) -> Workload:
    """The workload of that name."""
    return next(workload for workload in (*WORKLOADS, *QUICK) if workload.name == name)

"""What is timed: one meta-training iteration each (inner loops, query loss, meta-gradient, Adam), in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import flops
import torch
from peers.inner_loop import Problem
from peers.nets import CONV4, STRIDED, TUTORIAL, ConvNet, with_library_batch_norm, with_values
from torch import Tensor, nn
from zoo import workload as zoo_workload
from zoo.workload import ZooWorkload

from maml_fast.algorithms import ALGORITHMS, Settings
from maml_fast.data import Episodes, EpisodeSampler, ImageBank
from maml_fast.data._noise import make_noise
from maml_fast.maml import Learner
from maml_fast.models import Conv4, TutorialNet
from maml_fast.nn import BatchStatNorm2d
from maml_fast.train import TrainConfig

OMNIGLOT = (1623, 20)  # classes, images of each
MINI_IMAGENET = (64, 60)  # its training classes; a tenth of their images, or every process would hold 800 MB


@dataclass(frozen=True)
class Workload:
    """A network, episodes and an inner loop. A new one is an entry in ``WORKLOADS``.

    ``name`` is a family's, or a family's and an order's: ``W2-order1``.

    ``model`` makes the module that maml_fast trains, ``network`` is the same as a function of the module's parameters.
    ``algorithm`` is one of ``maml_fast.algorithms.ALGORITHMS``, of which ``order`` and the like are the numbers.
    ``scored`` are inner steps, besides the last, after which the query set is scored too; ``bank`` is what episodes are
    drawn from, as classes and images of each. ``device`` is where the parameters and the episodes are.
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
    bank: tuple[int, int] = OMNIGLOT
    scored: tuple[int, ...] = ()
    algorithm: str = "maml"
    device: str = "cpu"

    @property
    def family(self) -> str:
        """The family's name, the same for all orders."""
        return self.name.partition("-")[0]

    @property
    def kind_of_episodes(self) -> tuple[object, ...]:
        """A key that is equal for workloads with equal episodes."""
        return self.n_way, self.k_shot, self.k_query, self.meta_batch_size, self.bank, self.image_shape

    def model_at(self, start: Sequence[Tensor]) -> nn.Module:
        """The model with copies of these parameters, in their dtype and on their device."""
        return with_values(self.model(), start)

    def torch_model(self, start: Sequence[Tensor]) -> nn.Module:
        """Return the module with torch's own batch norm, the fastest form without maml_fast."""
        return with_library_batch_norm(self.model_at(start))

    def learner(self, start: Sequence[Tensor], **options: Any) -> Learner:
        """What maml_fast makes of it, with these parameters; ``options`` are the algorithm's own."""
        settings = replace(self.settings(), **options)
        return ALGORITHMS[self.algorithm].make(self.model_at(start), settings)

    def for_parity(self) -> Workload:
        """Return the part of the workload on which parity is checked."""
        return self

    def problem(self, elementary: bool = False) -> Problem:
        """The inner loop for the plain peers; ``elementary``: with batch norm in elementary operations."""
        network = self.network.with_elementary_batch_norm() if elementary else self.network
        adapted = range(len(_start(self.model)))
        return Problem(network, self.inner_steps, self.order, adapted, scored=self.scored)

    def settings(self) -> Settings:
        """Return the arguments of the algorithm: those of this inner loop that it takes."""
        inner_loop = {"inner_lr": self.inner_lr, "inner_steps": self.inner_steps, "order": self.order}
        ignored = ALGORITHMS[self.algorithm].ignores
        known = {name: value for name, value in inner_loop.items() if name not in ignored}
        return TrainConfig(algorithm=self.algorithm, **known).learner_settings

    def start(self, dtype: torch.dtype) -> list[Tensor]:
        """The initial parameters: the model's own, moved a little, so that nothing is zero or equal by design."""
        return [parameter.to(self.device, dtype) for parameter in _start(self.model)]

    def sampler(self, meta_batch_size: int | None = None) -> EpisodeSampler:
        """Return a sampler of episodes of random images."""
        sizes = (self.n_way, self.k_shot, self.k_query, meta_batch_size or self.meta_batch_size)
        return EpisodeSampler(random_images(self.bank, self.image_shape), *sizes)

    def episodes(self, dtype: torch.dtype = torch.float32, number: int = 0) -> Episodes:
        """Return the meta-batch that all peers train on, or another one like it."""
        return self.sampler().batch(number).to(self.device, dtype)

    def of_tasks(self, meta_batch_size: int) -> Workload:
        """Return the same workload with fewer tasks."""
        return replace(self, meta_batch_size=min(meta_batch_size, self.meta_batch_size))

    def layers(self) -> list[flops.Layer]:
        """Return the layers that the floor counts."""
        return flops.layers(self.model(), self.image_shape)

    def flops(self) -> float:
        """Return the operations of one iteration, counted as for the floor."""
        return self._flops_of(self.layers())

    def convolution_flops(self) -> float:
        """Return the operations of the convolutions alone."""
        return self._flops_of([layer for layer in self.layers() if layer.convolution])

    def _flops_of(self, layers: Sequence[flops.Layer]) -> float:
        support, query = self.n_way * self.k_shot, self.n_way * self.k_query
        passing = len(self.scored)
        return self.meta_batch_size * flops.of_a_task(layers, support, query, self.inner_steps, self.order, passing)

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
def random_images(bank: tuple[int, int], image_shape: tuple[int, int, int]) -> ImageBank:
    """Return random pixels."""
    return make_noise(*bank, image_shape)


def _both_orders(name: str, title: str, **options: Any) -> tuple[Workload, ...]:
    return tuple(Workload(f"{name}-order{order}", title, order=order, **options) for order in (2, 1))


_TUTORIALS = {
    "model": TutorialNet,
    "network": TUTORIAL,
    "inner_lr": 0.04,
    "meta_lr": 2e-4,
    "order": 1,
}
_CONV4 = {"model": Conv4, "network": CONV4}

WORKLOADS = (
    Workload(
        "W1",
        "tutorial's net, 8 tasks of 5-way 1-shot, 15 queries, 5 first-order steps",
        meta_batch_size=8,
        inner_steps=5,
        scored=(0, 2, 3, 4),  # not after the first step: so does the tutorial
        **_TUTORIALS,
    ),
    *_both_orders(
        "W2", "Conv4-64, 32 tasks of 5-way 1-shot, 15 queries, 1 step", meta_batch_size=32, inner_steps=1, **_CONV4
    ),
    *_both_orders(
        "W3", "Conv4-64, 32 tasks of 5-way 1-shot, 15 queries, 5 steps", meta_batch_size=32, inner_steps=5, **_CONV4
    ),
    *_both_orders(
        "W4",
        "Conv4-64, 16 tasks of 20-way 1-shot, 5 queries, 5 steps",
        model=partial(Conv4, n_way=20),
        network=CONV4,
        meta_batch_size=16,
        inner_steps=5,
        n_way=20,
        k_query=5,
    ),
    *_both_orders(
        "W5",
        "Conv4-32 on 84×84×3, 4 tasks of 5-way 5-shot, 15 queries, 5 steps",
        model=partial(Conv4, in_channels=3, hidden=32, image_size=84),
        network=CONV4,
        meta_batch_size=4,
        inner_steps=5,
        inner_lr=0.01,
        k_shot=5,
        image_shape=(3, 84, 84),
        bank=MINI_IMAGENET,
    ),
    Workload(
        "F",
        "Finn's recipe: strided Conv4-64, 32 tasks of 5-way 1-shot, 1 query, 1 second-order step",
        model=partial(Conv4, strided=True),
        network=STRIDED,
        meta_batch_size=32,
        inner_steps=1,
        order=2,
        inner_lr=2.0,
        k_query=1,
    ),
)


def _two_blocks(n_way: int | None = 5) -> nn.Module:
    def block(in_channels: int) -> list[nn.Module]:
        return [nn.Conv2d(in_channels, 4, 3, padding=1), BatchStatNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]

    classifier = [] if n_way is None else [nn.Linear(4 * 2 * 2, n_way)]
    return nn.Sequential(*block(1), *block(4), nn.Flatten(), *classifier)


QUICK = (
    Workload(
        "Q1",
        "tutorial's net, 2 tasks, 2 first-order steps",
        meta_batch_size=2,
        inner_steps=2,
        scored=(0,),
        **_TUTORIALS,
    ),
    Workload(
        "Q2",
        "two blocks of 4 channels on 8×8, 2 tasks, 1 second-order step",
        model=_two_blocks,
        network=replace(CONV4, blocks=CONV4.blocks[:2]),
        meta_batch_size=2,
        inner_steps=1,
        order=2,
        k_query=3,
        image_shape=(1, 8, 8),
    ),
)


# What an algorithm has otherwise than the others.
OWN: dict[str, dict[str, Any]] = {
    "reptile": {"inner_lr": 1e-3},
    "learned-optimizer": {"inner_lr": 0.1, "order": 1},
    "meta-lstm": {"order": 1},
}


def _of_algorithms(family: str, own: dict[str, dict[str, Any]], **options: Any) -> tuple[Workload, ...]:
    """Return one workload for each algorithm, the same apart from what the algorithm requires."""
    workloads = []
    for name, algorithm in ALGORITHMS.items():
        chosen = {**options, **OWN.get(name, {}), **own.get(name, {})}
        model = partial(chosen.pop("model"), n_way=None if algorithm.embeds else 5)
        workloads.append(Workload(f"{family}-{name}", model=model, algorithm=name, **chosen))
    return tuple(workloads)


# Their LSTMs take far longer than the net that they train: a small one.
_SMALL = {"title": "Conv4-16, 4 tasks of 5-way 1-shot, 15 queries, 5 steps", "model": partial(Conv4, hidden=16)}
OF_ALGORITHMS = _of_algorithms(
    "A",
    {name: {**_SMALL, "meta_batch_size": 4} for name in ("learned-optimizer", "meta-lstm")},
    title="Conv4-64, 16 tasks of 5-way 1-shot, 15 queries, 5 steps",
    model=Conv4,
    network=CONV4,
    meta_batch_size=16,
    inner_steps=5,
    order=2,
)
QUICK_OF_ALGORITHMS = _of_algorithms(
    "QA",
    {},
    title="two blocks of 4 channels on 8×8, 2 tasks, 2 steps",
    model=_two_blocks,
    network=QUICK[1].network,
    meta_batch_size=2,
    inner_steps=2,
    order=2,
    k_query=3,
    image_shape=(1, 8, 8),
)


ALL = (*WORKLOADS, *QUICK, *OF_ALGORITHMS, *QUICK_OF_ALGORITHMS)


def named(name: str) -> Workload | ZooWorkload:
    """Return the workload of this name, or a net of the zoo."""
    known = (*ALL, *zoo_workload.WORKLOADS, *zoo_workload.QUICK)
    return next(workload for workload in known if workload.name == name)

"""All algorithms by name: the one door for training runs and the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from maml_fast.algorithms.anil import ANIL
from maml_fast.algorithms.boil import BOIL
from maml_fast.algorithms.fomaml import FOMAML
from maml_fast.algorithms.meta_sgd import MetaSGD
from maml_fast.algorithms.protonet import ProtoNet
from maml_fast.algorithms.reptile import Reptile
from maml_fast.maml import MAML, MetaLearner
from maml_fast.maml.selection import Adapt
from maml_fast.maml.task_chunks import TaskChunk

__all__ = ["ALGORITHMS", "Algorithm", "Settings"]


@dataclass(frozen=True)
class Settings:
    """What a training run says about its learner; each algorithm takes what it knows."""

    inner_lr: float
    inner_steps: int
    order: int
    adapt: Adapt
    learn_inner_lr: bool
    task_chunk: TaskChunk
    inner_batch: int
    distance: str

    def inner_loop(self, *names: str) -> dict[str, Any]:
        """Those of these names, as arguments."""
        return {name: getattr(self, name) for name in ("inner_lr", "inner_steps", *names)}


class Algorithm(NamedTuple):
    """How to make a learner, and which settings it takes none of: they must be left at their defaults."""

    title: str
    make: Callable[[nn.Module, Settings], MetaLearner]
    ignores: tuple[str, ...] = ()
    embeds: bool = False  # its model has no classifier


_LOOP = ("order", "task_chunk")

ALGORITHMS: Mapping[str, Algorithm] = {
    "maml": Algorithm(
        "MAML",
        lambda model, s: MAML(model, **s.inner_loop(*_LOOP, "adapt", "learn_inner_lr")),
        ("inner_batch", "distance"),
    ),
    "fomaml": Algorithm(
        "first-order MAML",
        lambda model, s: FOMAML(model, **s.inner_loop("task_chunk", "adapt", "learn_inner_lr")),
        ("order", "inner_batch", "distance"),
    ),
    "anil": Algorithm(
        "ANIL",
        lambda model, s: ANIL(model, **s.inner_loop(*_LOOP, "learn_inner_lr")),
        ("adapt", "inner_batch", "distance"),
    ),
    "boil": Algorithm(
        "BOIL",
        lambda model, s: BOIL(model, **s.inner_loop(*_LOOP, "learn_inner_lr")),
        ("adapt", "inner_batch", "distance"),
    ),
    "meta-sgd": Algorithm(
        "Meta-SGD",
        lambda model, s: MetaSGD(model, **s.inner_loop(*_LOOP, "adapt")),
        ("learn_inner_lr", "inner_batch", "distance"),
    ),
    "reptile": Algorithm(
        "Reptile",
        lambda model, s: Reptile(model, **s.inner_loop("inner_batch")),
        ("order", "adapt", "learn_inner_lr", "distance"),
    ),
    "protonet": Algorithm(
        "prototypical networks",
        lambda model, s: ProtoNet(model, s.distance),
        ("order", "adapt", "learn_inner_lr", "inner_batch", "inner_lr", "inner_steps"),
        embeds=True,
    ),
}

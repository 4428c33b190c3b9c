"""All algorithms by name, for training runs and the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from torch import nn

from maml_fast.algorithms._anil import ANIL
from maml_fast.algorithms._boil import BOIL
from maml_fast.algorithms._fomaml import FOMAML
from maml_fast.algorithms._learned_optimizer import LearnedOptimizer
from maml_fast.algorithms._maml_plus_plus import MAMLPlusPlus
from maml_fast.algorithms._meta_lstm import MetaLSTM
from maml_fast.algorithms._meta_sgd import MetaSGD
from maml_fast.algorithms._protonet import ProtoNet
from maml_fast.algorithms._reptile import Reptile
from maml_fast.inner_loop._chunks import TaskChunk
from maml_fast.inner_loop._heads import Head
from maml_fast.inner_loop._selection import AdaptedChoice
from maml_fast.maml import MAML, Learner
from maml_fast.program import InnerBatchNorm

__all__ = ["ALGORITHMS", "Algorithm", "Settings"]


@dataclass(frozen=True)
class Settings:
    """The settings of a training run for its learner; an algorithm takes some of them, as arguments of these names.

    ``None``, where it is allowed, stands for the algorithm's own default.
    """

    inner_lr: float
    inner_steps: int
    order: int
    adapted: AdaptedChoice
    learn_inner_lr: bool
    inner_optimizer: str
    head: Head
    batch_norm: InnerBatchNorm | None
    first_order_iterations: int | None
    multi_step_iterations: int | None
    task_chunk: TaskChunk
    inner_batch: int
    distance: str


class Algorithm(NamedTuple):
    """A learner's class and the settings that it takes.

    Attributes:
        title: name of the algorithm in text.
        learner: the learner's class.
        takes: names of the :class:`Settings` that are passed to it.
        embeds: whether its model returns embeddings, so that it has no classifier.
    """

    title: str
    learner: Callable[..., Learner]
    takes: tuple[str, ...]
    embeds: bool = False

    def make(self, model: nn.Module, settings: Settings) -> Learner:
        """Return the learner of ``model`` with the settings that it takes."""
        values = {name: getattr(settings, name) for name in self.takes}
        return self.learner(model, **{name: value for name, value in values.items() if value is not None})

    @property
    def ignores(self) -> tuple[str, ...]:
        """Names of the settings without a meaning for it, which a run must leave at their defaults."""
        return tuple(each.name for each in fields(Settings) if each.name not in (*self.takes, *_ALWAYS_ALLOWED))


_ALWAYS_ALLOWED = ("task_chunk",)  # changes no results: a run may set it with any algorithm
_FIRST_ORDER = ("inner_lr", "inner_steps", "inner_optimizer", "batch_norm", "multi_step_iterations", "task_chunk")
_LOOP = (*_FIRST_ORDER, "order", "first_order_iterations")
_LEARNED_LOOP = ("inner_lr", "inner_steps", "order", "adapted", "head", "batch_norm", "task_chunk")

ALGORITHMS: Mapping[str, Algorithm] = {
    "maml": Algorithm("MAML", MAML, (*_LOOP, "adapted", "head", "learn_inner_lr")),
    "fomaml": Algorithm("first-order MAML", FOMAML, (*_FIRST_ORDER, "adapted", "head", "learn_inner_lr")),
    "anil": Algorithm("ANIL", ANIL, (*_LOOP, "head", "learn_inner_lr")),
    "boil": Algorithm("BOIL", BOIL, (*_LOOP, "learn_inner_lr")),
    "meta-sgd": Algorithm("Meta-SGD", MetaSGD, (*_LOOP, "adapted", "head")),
    "maml++": Algorithm("MAML++", MAMLPlusPlus, (*_LOOP, "adapted", "head")),
    "learned-optimizer": Algorithm("learned optimizer", LearnedOptimizer, _LEARNED_LOOP),
    "meta-lstm": Algorithm("LSTM meta-learner", MetaLSTM, _LEARNED_LOOP),
    "reptile": Algorithm("Reptile", Reptile, ("inner_lr", "inner_steps", "inner_batch")),
    "protonet": Algorithm("prototypical networks", ProtoNet, ("distance",), embeds=True),
}

"""Learners: modules that make clones of themselves, which adapt to a task by gradient steps."""

from maml_fast.compat.learn2learn._out import missing
from maml_fast.compat.learn2learn.algorithms.base_learner import BaseLearner
from maml_fast.compat.learn2learn.algorithms.gbml import GBML
from maml_fast.compat.learn2learn.algorithms.maml import MAML, maml_update
from maml_fast.compat.learn2learn.algorithms.meta_sgd import MetaSGD, meta_sgd_update

__all__ = ["GBML", "MAML", "BaseLearner", "MetaSGD", "maml_update", "meta_sgd_update"]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)

"""Layers for meta-learning."""

from maml_fast.compat.learn2learn._out import missing
from maml_fast.compat.learn2learn.nn.kroneckers import KroneckerLinear, KroneckerLSTM, KroneckerRNN
from maml_fast.compat.learn2learn.nn.metalayers import MetaModule, ParameterTransform
from maml_fast.compat.learn2learn.nn.misc import Flatten, Lambda, Scale, freeze, unfreeze
from maml_fast.compat.learn2learn.nn.protonet import PrototypicalClassifier

__all__ = [
    "Flatten",
    "KroneckerLSTM",
    "KroneckerLinear",
    "KroneckerRNN",
    "Lambda",
    "MetaModule",
    "ParameterTransform",
    "PrototypicalClassifier",
    "Scale",
    "freeze",
    "unfreeze",
]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)

"""Clones and updates of modules, and small helpers."""

from maml_fast.compat.learn2learn._out import missing
from maml_fast.compat.learn2learn.utils._modules import (
    clone_module,
    clone_named_parameters,
    clone_parameters,
    detach_module,
    update_module,
)
from maml_fast.compat.learn2learn.utils._values import (
    accuracy,
    clone_distribution,
    detach_distribution,
    flatten_config,
    magic_box,
    warn_once,
)

__all__ = [
    "accuracy",
    "clone_distribution",
    "clone_module",
    "clone_named_parameters",
    "clone_parameters",
    "detach_distribution",
    "detach_module",
    "flatten_config",
    "magic_box",
    "update_module",
    "warn_once",
]


def __getattr__(name: str) -> object:
    raise missing(__name__, name, __all__)

"""Modules whose layers or parameters are replaced."""

from maml_fast.compat.learn2learn.nn.metalayers.metamodule import MetaModule
from maml_fast.compat.learn2learn.nn.metalayers.parameter_transform import ParameterTransform

__all__ = ["MetaModule", "ParameterTransform"]

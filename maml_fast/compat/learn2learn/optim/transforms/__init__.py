"""Transforms: called with a parameter, they return the module that makes an update of the parameter's gradient."""

from maml_fast.compat.learn2learn.optim.transforms.kronecker_transform import KroneckerTransform
from maml_fast.compat.learn2learn.optim.transforms.metacurvature_transform import MetaCurvatureTransform
from maml_fast.compat.learn2learn.optim.transforms.module_transform import ModuleTransform, ReshapedTransform
from maml_fast.compat.learn2learn.optim.transforms.transform_dictionary import TransformDictionary

__all__ = [
    "KroneckerTransform",
    "MetaCurvatureTransform",
    "ModuleTransform",
    "ReshapedTransform",
    "TransformDictionary",
]

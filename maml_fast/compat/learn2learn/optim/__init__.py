"""Differentiable updates of modules, and transforms of gradients that can be learned."""

from maml_fast.compat.learn2learn.optim.learnable_optimizer import LearnableOptimizer
from maml_fast.compat.learn2learn.optim.parameter_update import ParameterUpdate
from maml_fast.compat.learn2learn.optim.transforms import (
    KroneckerTransform,
    MetaCurvatureTransform,
    ModuleTransform,
    ReshapedTransform,
    TransformDictionary,
)
from maml_fast.compat.learn2learn.optim.update_rules import DifferentiableSGD

__all__ = [
    "DifferentiableSGD",
    "KroneckerTransform",
    "LearnableOptimizer",
    "MetaCurvatureTransform",
    "ModuleTransform",
    "ParameterUpdate",
    "ReshapedTransform",
    "TransformDictionary",
]

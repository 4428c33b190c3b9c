"""Rules that apply updates to a module."""

from maml_fast.compat.learn2learn.optim.update_rules.differentiable_sgd import DifferentiableSGD

__all__ = ["DifferentiableSGD"]

"""Batch norm that every inner step has of its own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast.maml.per_step import PerStep
from maml_fast.maml.selection import as_attribute

__all__ = ["StepNorms"]


class StepNorms(nn.Module):
    """Scale and shift of a model's batch norms, [K, C] for K inner steps, meta-learned in place of the model's own.

    Antoniou, Edwards & Storkey 2019, section 4 (per-step batch normalization weights and biases). All start from the
    model's.

    Raises:
        ValueError: the model has no batch norm layer with a scale or a shift.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        super().__init__()
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        parameters = {parameter for norm in norms for parameter in norm.parameters(recurse=False)}
        self.names = tuple(name for name, parameter in model.named_parameters() if parameter in parameters)
        if not self.names:
            raise ValueError("per-step batch norm needs a layer with a scale or a shift, and the model has none")
        for name, parameter in model.named_parameters():
            if parameter in parameters:
                of_steps = torch.stack([parameter.detach()] * steps)
                self.register_parameter(as_attribute(name), nn.Parameter(of_steps, parameter.requires_grad))

    def values(self) -> dict[str, PerStep]:
        """By the names of the model's parameters that they stand in for."""
        return {name: PerStep(getattr(self, as_attribute(name))) for name in self.names}

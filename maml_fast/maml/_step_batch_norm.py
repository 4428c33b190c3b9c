"""Batch norm that every inner step has of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast import ops
from maml_fast.maml._arguments import as_attribute
from maml_fast.maml._values import PerStep
from maml_fast.program import Program, RunBlock

__all__ = ["Collector", "StepNorms", "StepStatistics"]


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


MOMENTUM = 0.1  # of a meta-batch, as in torch.nn.BatchNorm2d of a batch


class StepStatistics(nn.Module):
    """Mean and variance of every conv block's channels at every inner step, [K, C], to normalize by in evaluation.

    Antoniou, Edwards & Storkey 2019, section 4 (per-step batch normalization running statistics). Step s has those of
    the support images as they take step s, and of the queries after it. They start at 0 and 1; the variance is the
    biased one, by which training normalizes.

    Raises:
        ValueError: the model has no batch norm of images.
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        super().__init__()
        norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        if not norms:
            raise ValueError("batch_norm='per_step_running' needs a model of conv blocks, and it has no nn.BatchNorm2d")
        _, like = next(model.named_parameters())
        self.steps = steps
        self.channels = [norm.num_features for norm in norms]
        for block, norm in enumerate(norms):
            empty = like.new_zeros(steps, norm.num_features)
            self.register_buffer(f"mean{block}", empty)
            self.register_buffer(f"variance{block}", torch.ones_like(empty))

    def check(self, programs: Sequence[Program] | str) -> None:
        """Raise ValueError unless every batch norm belongs to a conv block, in the order of the model's modules."""
        why = programs if isinstance(programs, str) else None
        for program in () if isinstance(programs, str) else programs:
            channels = [line.call.result.shape[1] for line in program.blocks()]
            if channels != self.channels:
                why = f"its conv blocks have {channels} channels, its batch norms {self.channels}"
        if why is not None:
            raise ValueError(f"batch_norm='per_step_running' needs a model of conv blocks, run step by step: {why}")

    def of(self, block: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of a block, [K, C]."""
        return getattr(self, f"mean{block}"), getattr(self, f"variance{block}")

    def row(self, step: int) -> int:
        """Where a step's are."""
        return min(step, self.steps - 1)

    def given(self, step: int) -> RunBlock:
        """What runs the blocks of a forward pass by a step's statistics."""
        block = count()

        def run_block(geometry: Mapping[str, Any], *operands: Any) -> Tensor:
            mean, variance = (each[self.row(step)] for each in self.of(next(block)))
            return ops.conv_block_by_statistics(*operands, mean=mean, variance=variance, **geometry)

        return run_block


class Collector:
    """What one meta-iteration's passes say of the statistics: their mean over tasks and passes, whatever the chunks."""

    def __init__(self, statistics: StepStatistics) -> None:
        self._statistics = statistics
        self._passes: dict[tuple[int, int], list[Tensor]] = defaultdict(list)  # of (step, block): [T, 2, C] each

    def taking(self, step: int) -> RunBlock:
        """What runs the blocks of a forward pass by the batch's statistics, and takes them down as a step's."""
        row, block = self._statistics.row(step), count()

        def run_block(geometry: Mapping[str, Any], *operands: Any) -> Tensor:
            out, mean, variance = ops.conv_block_with_statistics(*operands, **geometry)
            self._passes[row, next(block)].append(torch.stack([mean, variance], dim=1))
            return out

        return run_block

    @torch.no_grad()
    def update(self) -> None:
        """Move the running statistics."""
        for (row, block), passes in self._passes.items():
            new = torch.cat(passes).mean(dim=0)  # [2, C]
            for running, value in zip(self._statistics.of(block), new, strict=True):
                running[row].lerp_(value.to(running.dtype), MOMENTUM)

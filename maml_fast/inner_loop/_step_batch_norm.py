"""Per-step batch norm: parameters and running statistics of every inner step (MAML++)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maml_fast import ops
from maml_fast.inner_loop._selection import as_attribute
from maml_fast.inner_loop._values import PerStep
from maml_fast.program import Program, RunBlock

__all__ = ["Collector", "StepNorms", "StepStatistics"]


class StepNorms(nn.Module):
    """Meta-learned scales and shifts of a model's batch norms for K inner steps, [K, C], which replace the model's own.

    They are initialized with the model's (Antoniou, Edwards & Storkey 2019, section 4, per-step batch normalization
    weights and biases).

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
                rows = torch.stack([parameter.detach()] * steps)  # [K, C]
                self.register_parameter(as_attribute(name), nn.Parameter(rows, parameter.requires_grad))

    def values(self) -> dict[str, PerStep]:
        """Return the values by the names of the model's parameters that they replace."""
        return {name: PerStep(getattr(self, as_attribute(name))) for name in self.names}


MOMENTUM = 0.1  # per meta-batch; the value that torch.nn.BatchNorm2d uses per batch


class StepStatistics(nn.Module):
    """Running mean and variance of every conv block at every inner step, [K, C], for evaluation.

    Step s holds the statistics of the support images at step s and of the queries scored after it (Antoniou, Edwards &
    Storkey 2019, section 4, per-step batch normalization running statistics). The means start at 0 and the variances at
    1. The variance is the biased one, which training normalizes with.

    Raises:
        ValueError: the model has no ``nn.BatchNorm2d``.
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
        """Raise ValueError unless the programs run every batch norm in a conv block, in the order of its modules."""
        why = programs if isinstance(programs, str) else None
        for program in () if isinstance(programs, str) else programs:
            channels = [line.call.result.shape[1] for line in program.blocks()]
            if channels != self.channels:
                why = f"its conv blocks have {channels} channels, its batch norms {self.channels}"
        if why is not None:
            raise ValueError(f"batch_norm='per_step_running' needs a model of conv blocks, run step by step: {why}")

    def mean_and_variance(self, block: int) -> tuple[Tensor, Tensor]:
        """Return the running mean and variance of a block, each [K, C]."""
        return getattr(self, f"mean{block}"), getattr(self, f"variance{block}")

    def row(self, step: int) -> int:
        """Return the row that holds a step's statistics; later steps use the last row."""
        return min(step, self.steps - 1)

    def block_runner(self, step: int) -> RunBlock:
        """Return a function that runs the conv blocks of one forward pass with the running statistics of ``step``."""
        block = count()

        def run_block(geometry: Mapping[str, Any], *operands: Any) -> Tensor:
            mean, variance = (each[self.row(step)] for each in self.mean_and_variance(next(block)))
            return ops.conv_block_by_statistics(*operands, mean=mean, variance=variance, **geometry)

        return run_block


class Collector:
    """Collects the batch statistics of one meta-iteration and averages them over all tasks and passes."""

    def __init__(self, statistics: StepStatistics) -> None:
        self._statistics = statistics
        self._passes: dict[tuple[int, int], list[Tensor]] = defaultdict(list)  # by (row, block); [T, 2, C] each

    def block_runner(self, step: int) -> RunBlock:
        """Return a function that runs the conv blocks of one forward pass with batch statistics, and records these."""
        row, block = self._statistics.row(step), count()

        def run_block(geometry: Mapping[str, Any], *operands: Any) -> Tensor:
            out, mean, variance = ops.conv_block_with_statistics(*operands, **geometry)
            self._passes[row, next(block)].append(torch.stack([mean, variance], dim=1))
            return out

        return run_block

    @torch.no_grad()
    def update(self) -> None:
        """Move the running statistics toward the collected means."""
        for (row, block), passes in self._passes.items():
            new = torch.cat(passes).mean(dim=0)  # [2, C]
            for running, value in zip(self._statistics.mean_and_variance(block), new, strict=True):
                running[row].lerp_(value.to(running.dtype), MOMENTUM)

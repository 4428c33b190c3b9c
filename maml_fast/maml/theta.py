"""What all tasks start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from maml_fast import ops
from maml_fast.maml.inner_rates import Rate
from maml_fast.maml.per_step import MaybePerStep, map_tensors
from maml_fast.maml.task_gradients import FastWeights

__all__ = ["Theta"]


class Theta(NamedTuple):
    """What all tasks have in common, by name.

    adapted: parameters that adapt, from these values on.
    rule: what the inner optimiser knows: learning rates by the parameters' names, or its own parameters.
    shared: other parameters; some of them may be each step's own.
    """

    adapted: Mapping[str, Tensor]
    rule: Mapping[str, MaybePerStep[Rate]]
    shared: Mapping[str, MaybePerStep[Tensor]]

    def map(self, function: Callable[[Tensor], Tensor]) -> Theta:
        """The same with other tensors in the place of these."""
        return Theta(*(map_tensors(function, part) for part in self))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.adapted.values())).device

    def fast_weights(self, n_tasks: int) -> FastWeights:
        """Every task at theta: views with task stride 0, no copies."""
        return {name: ops.over_tasks(theta, n_tasks) for name, theta in self.adapted.items()}

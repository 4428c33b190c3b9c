"""Any algorithm as a tutorial writes it: what maml_fast's algorithms are timed against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from peers.algorithms import LOOPS
from peers.learner import Learner

if TYPE_CHECKING:
    from workloads import Workload

    from maml_fast.data import Episodes


class Naive(Learner):
    """The naive loop of the workload's algorithm, with torch's own batch norm."""

    name = "naive"
    title = "naive per-task loop"

    def __init__(self, workload: Workload, start: Sequence[Tensor]) -> None:
        self.workload = workload
        self.loop = LOOPS[workload.algorithm](workload.torch_model(start), workload.settings())
        self.parameters = list(self.loop.parameters())
        self.optimizer = self.loop.make_optimizer(workload.meta_lr)

    def backward(self, episodes: Episodes) -> Tensor:
        return self.loop.backward(episodes)[None]

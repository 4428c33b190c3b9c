"""maml_fast, its loss and meta-gradient replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from maml_fast.inner_loop._graphed import WARM_UP
from peers.ours import Ours

if TYPE_CHECKING:
    from workloads import Workload


class Graphed(Ours):
    """``MAML(cuda_graph=True)``; Adam's step is not in the graph."""

    name = "maml_fast-graph"
    title = "maml_fast, CUDA graph"
    devices = ("cuda",)

    def __init__(self, workload: Workload, start: Sequence[Tensor], **options: Any) -> None:
        super().__init__(workload, start, **options)
        self.learner.cuda_graph = True

    def settle(self) -> None:
        """Run until the graph is captured; later calls replay it."""
        episodes = self.workload.episodes(self.parameters[0].dtype, number=1)
        for _ in range(WARM_UP + 1):
            self.backward(episodes)
        self.optimizer.zero_grad()
        if "cuda graph: loss and meta-gradient, replayed" not in self.learner.describe():
            raise RuntimeError("the CUDA graph is not replayed, though it should have been captured by now")

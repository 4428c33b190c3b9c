"""maml_fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maml_fast import native
from maml_fast.maml import MAML
from peers.learner import Learner

if TYPE_CHECKING:
    from workloads import Workload

    from maml_fast.data import Episodes


class Ours(Learner):
    """The workload's algorithm, as ``maml-fast train`` makes it."""

    name = "maml_fast"
    title = "maml_fast"
    all_tasks_at_once = True

    def __init__(self, workload: Workload, start: Sequence[Tensor], **options: Any) -> None:
        self.workload = workload
        self.learner = workload.learner(start, **options)
        self.parameters = list(self.learner.parameters())
        self.optimizer = self.learner.make_optimizer(workload.meta_lr)

    @classmethod
    def memory_needed(cls, workload: Workload) -> float:
        in_one_call = workload.device == "cpu" and native.library() is not None  # which keeps little
        chunk = torch.get_num_threads() if workload.device == "cpu" else workload.meta_batch_size
        return super().memory_needed(workload.of_tasks(chunk)) * (0.4 if in_one_call else 1.0)

    def backward(self, episodes: Episodes) -> Tensor:
        self.learner.begin_iteration(0)
        out = self.learner(episodes, per_step=self.workload.scored)
        out.loss.backward()
        return out.loss.detach()[None] if out.query_losses is None else out.query_losses

    def ran(self) -> str:
        """Return what the last iteration ran on: fused conv blocks, and how MAML's inner loop was computed."""
        report = self.learner.fusion
        fused = f"fused blocks: {len(report.fused) if report else 0}"
        described = self.learner.describe().splitlines() if isinstance(self.learner, MAML) else []
        return "; ".join([fused, *(line for line in described if line.startswith("inner loop: "))])

"""TorchOpt (Ren et al. 2023): ``MetaSGD`` on an ordinary module, which is reset for every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from peers.learner import ModuleLearner

if TYPE_CHECKING:
    from workloads import Workload


class TorchOpt(ModuleLearner):
    name = "torchopt"
    title = "TorchOpt"
    library = "torchopt"

    @classmethod
    def obstacle(cls, workload: Workload) -> str | None:
        if workload.order == 1:
            return "TorchOpt's MetaSGD is second order only"
        return super().obstacle(workload)

    def task_backward(self, task: Sequence[Tensor], weight: float) -> list[Tensor]:
        import torchopt

        x_spt, y_spt, x_qry, y_qry = task
        start = torchopt.extract_state_dict(self.model, by="reference")
        inner = torchopt.MetaSGD(self.model, lr=self.workload.inner_lr)
        losses = []
        for step in range(self.workload.inner_steps):
            if step in self.workload.scored:
                with torch.no_grad():
                    losses.append(F.cross_entropy(self.model(x_qry), y_qry))
            inner.step(F.cross_entropy(self.model(x_spt), y_spt))
        losses.append(F.cross_entropy(self.model(x_qry), y_qry))
        (weight * losses[-1]).backward()
        torchopt.recover_state_dict(self.model, start)
        return losses

"""The training system of a widely copied tutorial on MAML, in our own writing: first order, one task at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from peers.learner import Learner
from peers.nets import TUTORIAL, Parameters

if TYPE_CHECKING:
    from workloads import Workload

    from maml_fast.data import Episodes


class Tutorial:
    """First-order MAML and an Adam step on the last query loss.

    ``skip_first`` leaves out the score after the first inner step, as the original does.
    """

    def __init__(
        self,
        parameters: Parameters,
        base_lr: float = 0.04,
        meta_lr: float = 2e-4,
        update_step: int = 5,
        update_step_test: int = 5,
        skip_first: bool = False,
    ) -> None:
        self.parameters = [parameter.detach().clone().requires_grad_() for parameter in parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=meta_lr)
        self.base_lr, self.update_step, self.update_step_test = base_lr, update_step, update_step_test
        self.skip_first = skip_first

    def train(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """One iteration; mean query accuracies and losses after 0, 1, ..., update_step inner steps."""
        self.optimizer.zero_grad()
        results = self.backward(x_spt, y_spt, x_qry, y_qry)
        self.optimizer.step()
        return results

    def backward(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The meta-gradient, added to the parameters' ``.grad``; accuracies and losses as by ``train``."""
        n_tasks, n_queries = y_qry.shape
        correct, losses = np.zeros(self.update_step + 1), [torch.zeros(())] * (self.update_step + 1)
        for task in zip(x_spt, y_spt, x_qry, y_qry, strict=True):
            for step, right, loss in self._curve(task, self.update_step):
                correct[step] += right
                losses[step] = losses[step] + loss
        (losses[-1] / n_tasks).backward()
        return correct / (n_tasks * n_queries), np.array([loss.item() for loss in losses]) / n_tasks

    def test(self, x_spt: Tensor, y_spt: Tensor, x_qry: Tensor, y_qry: Tensor) -> np.ndarray:
        """Query accuracies of one task after 0, 1, ..., update_step_test inner steps."""
        curve = self._curve((x_spt, y_spt, x_qry, y_qry), self.update_step_test)
        return np.array([right for _, right, _ in curve]) / len(y_qry)

    def _curve(self, task: Sequence[Tensor], steps: int) -> Iterator[tuple[int, int, Tensor]]:
        x_spt, y_spt, x_qry, y_qry = task
        weights: Parameters = self.parameters
        for step in range(steps + 1):
            if not (self.skip_first and step == 1):
                with torch.set_grad_enabled(step > 0):
                    logits = TUTORIAL(weights, x_qry)
                    loss = F.cross_entropy(logits, y_qry)
                yield step, int((logits.softmax(dim=1).argmax(dim=1) == y_qry).sum()), loss
            if step < steps:
                gradients = torch.autograd.grad(F.cross_entropy(TUTORIAL(weights, x_spt), y_spt), weights)
                weights = [w - self.base_lr * g for w, g in zip(weights, gradients, strict=True)]


class TutorialLoop(Learner):
    """The tutorial's loop, on its own network."""

    name = "tutorial"
    title = "the tutorial's loop"
    all_tasks_at_once = True  # it adds up the tasks' losses, and with them their graphs
    copies = 12.0

    def __init__(self, workload: Workload, start: Sequence[Tensor]) -> None:
        self.workload = workload
        self.system = Tutorial(start, workload.inner_lr, workload.meta_lr, workload.inner_steps, skip_first=True)
        self.parameters, self.optimizer = self.system.parameters, self.system.optimizer

    @classmethod
    def obstacle(cls, workload: Workload) -> str | None:
        if workload.network is TUTORIAL and workload.order == 1:
            return None
        return "the tutorial has its own network, and first order only"

    def backward(self, episodes: Episodes) -> Tensor:
        _, losses = self.system.backward(*episodes)
        return torch.from_numpy(losses[[*self.workload.scored, self.workload.inner_steps]])

"""What every peer is: something that trains on a meta-batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workloads import Workload

    from maml_fast.data import Episodes


class Learner(ABC):
    """One way to train on a workload. A new peer is a file with a subclass, and an entry in ``peers.PEERS``.

    Args:
        workload: what to train on.
        start: the initial parameters, in the order of ``workload.model().parameters()``. They are copied.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # in tables and pictures
    all_tasks_at_once: ClassVar[bool] = False
    copies: ClassVar[float] = 8.0  # memory at the peak, in units of the convolutions' outputs; roughly

    parameters: list[Tensor]
    optimiser: torch.optim.Optimizer

    def __init__(self, workload: Workload, start: Sequence[Tensor]) -> None:
        self.workload = workload
        self.parameters = [parameter.detach().clone().requires_grad_() for parameter in start]
        self.optimiser = torch.optim.Adam(self.parameters, lr=workload.meta_lr)

    @classmethod
    def obstacle(cls, workload: Workload) -> str | None:
        """Why this peer can't run the workload at all: another network, a library that is not installed."""
        return None

    @classmethod
    def memory_needed(cls, workload: Workload) -> float:
        """Bytes, roughly: what is held of all tasks, or of one."""
        tasks = workload.meta_batch_size if cls.all_tasks_at_once else 1
        return cls.copies * tasks * workload.output_bytes_of_a_task()

    @abstractmethod
    def backward(self, episodes: Episodes) -> Tensor:
        """Add the meta-gradient to the parameters' ``.grad``; return the mean query loss after each scored step."""

    def iteration(self, episodes: Episodes) -> Tensor:
        """One meta-training iteration."""
        self.optimiser.zero_grad()
        losses = self.backward(episodes)
        self.optimiser.step()
        return losses

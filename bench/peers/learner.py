"""The interface of a peer, which trains on a meta-batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from workloads import Workload

    from maml_fast.data import Episodes


class Learner(ABC):
    """One way to train on a workload, on its device.

    A new peer is a file with a subclass, and an entry in ``peers.PEERS``.

    Args:
        workload: what to train on.
        start: the initial parameters, in the order of ``workload.model().parameters()``. They are copied.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # in tables and pictures
    library: ClassVar[str | None] = None  # that must be installed
    distribution: ClassVar[str | None] = None  # that holds the library, where it has another name
    remedy: ClassVar[str] = "pip install 'maml_fast[bench]'"  # where it is not
    quick_environment: ClassVar[Mapping[str, str]] = {}  # in quick mode, where times do not matter
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")  # that it is useful on; on others it is not mentioned
    all_tasks_at_once: ClassVar[bool] = False
    torch_allocates: ClassVar[bool] = True  # its memory on a GPU; otherwise its peak is unknown
    copies: ClassVar[float] = 8.0  # memory at the peak, in units of the convolutions' outputs; roughly

    parameters: list[Tensor]
    optimizer: torch.optim.Optimizer

    def __init__(self, workload: Workload, start: Sequence[Tensor]) -> None:
        self.workload = workload
        self.parameters = [parameter.detach().clone().requires_grad_() for parameter in start]
        self.optimizer = torch.optim.Adam(self.parameters, lr=workload.meta_lr, fused=True)

    @classmethod
    def obstacle(cls, workload: Workload) -> str | None:
        """Return why this peer can't run the workload (for example a missing library), or None."""
        if cls.library is not None and find_spec(cls.library) is None:
            return f"{cls.library} is not installed: {cls.remedy}"
        return None

    @classmethod
    def memory_needed(cls, workload: Workload) -> float:
        """Return roughly the bytes that are held, for all tasks or for one."""
        tasks = workload.meta_batch_size if cls.all_tasks_at_once else 1
        return cls.copies * tasks * workload.output_bytes_of_a_task()

    @property
    def workers(self) -> Sequence[int]:
        """Identifiers of the processes that work for this one."""
        return ()

    @abstractmethod
    def backward(self, episodes: Episodes) -> Tensor:
        """Add the meta-gradient to the parameters' ``.grad``; return the mean query loss after each scored step."""

    def settle(self) -> None:  # noqa: B027 - most have nothing to do
        """Train on other episodes until all calls take equally long. Parameters stay, and no gradient is left."""

    def iteration(self, episodes: Episodes) -> Tensor:
        """One meta-training iteration."""
        self.optimizer.zero_grad()
        losses = self.backward(episodes)
        self.optimizer.step()
        return losses

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """End processes and the like that the learner has started."""


class TaskByTask(Learner):
    """Every task's gradient is taken before the next task: one task's graph is in memory at a time."""

    @abstractmethod
    def task_backward(self, task: Sequence[Tensor], weight: float) -> list[Tensor]:
        """Add ``weight`` times the gradient of one task's query loss; return its losses, the last one the query's."""

    def backward(self, episodes: Episodes) -> Tensor:
        weight = 1 / episodes.meta_batch_size
        losses = [torch.stack(self.task_backward(task, weight)).detach() for task in zip(*episodes, strict=True)]
        return torch.stack(losses).mean(dim=0)


class ModuleLearner(TaskByTask):
    """A library that adapts an ordinary module of one task, here with torch's own batch norm."""

    def __init__(self, workload: Workload, start: Sequence[Tensor]) -> None:
        self.workload = workload
        self.model = self.make_model(start)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=workload.meta_lr, fused=True)

    def make_model(self, start: Sequence[Tensor]) -> nn.Module:
        """The module, with these parameters."""
        return self.workload.torch_model(start)

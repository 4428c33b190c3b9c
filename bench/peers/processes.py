"""The per-task loop in as many single-threaded processes as PyTorch would have threads.

The processes live as long as the learner. Parameters, meta-batch and gradients lie in shared memory; the parent sums
the gradients and steps Adam.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from maml_fast.data import Episodes
from peers.learner import Learner
from peers.loop import TaskLoop

if TYPE_CHECKING:
    from workloads import Workload


class Processes(Learner):
    name = "processes"
    title = "per-task loop, a process per core"
    devices = ("cpu",)

    def __init__(self, workload: Workload, start: Sequence[Tensor]) -> None:
        super().__init__(workload, start)
        for parameter in self.parameters:
            parameter.share_memory_()
        self._batch = Episodes(*(_shared_like(tensor) for tensor in workload.episodes(start[0].dtype)))
        self._workers = [_Worker(workload, self.parameters, share) for share in self._shares()]
        for worker in self._workers:
            worker.receive()  # it is ready

    def _shares(self) -> list[Episodes]:
        """The meta-batch in as many parts as there are processes, equal up to one task."""
        tasks = self._batch.meta_batch_size
        parts = [tensor.tensor_split(min(torch.get_num_threads(), tasks)) for tensor in self._batch]
        return [Episodes(*share) for share in zip(*parts, strict=True)]

    @classmethod
    def memory_needed(cls, workload: Workload) -> float:
        return super().memory_needed(workload) * min(torch.get_num_threads(), workload.meta_batch_size)

    @property
    def workers(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    def backward(self, episodes: Episodes) -> Tensor:
        for shared, given in zip(self._batch, episodes, strict=True):
            shared.copy_(given)
        for worker in self._workers:
            worker.send("backward")
        losses = [worker.weight * worker.receive() for worker in self._workers]
        for place, parameter in enumerate(self.parameters):
            gradient = sum(worker.weight * worker.gradients[place] for worker in self._workers)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return torch.stack(losses).sum(dim=0)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process and its share of the tasks."""

    def __init__(self, workload: Workload, parameters: Sequence[Tensor], share: Episodes) -> None:
        self.weight = share.meta_batch_size / workload.meta_batch_size
        self.gradients = [_shared_like(parameter) for parameter in parameters]
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, workload, parameters, share, self.gradients)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: str) -> None:
        self._connection.send(message)

    def receive(self) -> Tensor:
        return torch.tensor(self._connection.recv(), dtype=torch.float64)

    def close(self) -> None:
        self._connection.close()
        self._process.join()


def _serve(
    connection: Connection, workload: Workload, parameters: list[Tensor], share: Episodes, gradients: list[Tensor]
) -> None:
    torch.set_num_threads(1)
    learner = TaskLoop(workload, parameters)
    learner.parameters = parameters  # the shared ones, which the parent's Adam moves
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    connection.send([])
    while True:
        try:
            connection.recv()
        except EOFError:  # the parent has closed its end, or is no more
            return
        torch._foreach_zero_(gradients)
        connection.send(learner.backward(share).tolist())


def _shared_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, requires_grad=False).share_memory_()

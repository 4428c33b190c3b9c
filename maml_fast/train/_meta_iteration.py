"""Runs meta-iterations: episodes, loss, meta-gradient and outer step, all queued before the CPU waits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator

import torch
from torch import Tensor, nn

from maml_fast.data._episodes import Episodes
from maml_fast.data._gpu_sampler import GpuSampler
from maml_fast.inner_loop._graphed import WARM_UP, CudaGraph
from maml_fast.train._meta_gradient import make_gradient
from maml_fast.train._readings import LateReader, Reading, read_at_once
from maml_fast.train._schedule import meta_lr_at
from maml_fast.train._workbench import Workbench

__all__ = ["EagerIterations", "GraphedIterations", "MetaIterations", "make_iterations"]

WHAT = "the meta-iteration"


class MetaIterations(ABC):
    """The meta-iterations of a run.

    Attributes:
        consistent: whether the parameters and the record are of the same iteration. It becomes False just before the
            parameters change; the caller sets it to True once the iteration is recorded.
        reads_late: whether an iteration's numbers are read when the next one is queued, as on a GPU.
    """

    reads_late: bool

    def __init__(self, bench: Workbench, optimizer: torch.optim.Optimizer) -> None:
        self.consistent = True
        self._bench, self._config, self._learner, self._optimizer = bench, bench.config, bench.learner, optimizer
        self._parameters = list(bench.learner.parameters())
        self._all_finite = torch.ones((), dtype=torch.bool, device=self._config.device)
        self._gradient = make_gradient(
            bench.learner, bench.group, self._config.meta_batch_size, in_order=self._config.fixed_order
        )

    @abstractmethod
    def begin(self, iteration: int) -> None:
        """Prepare to run iterations from ``iteration`` on."""

    @abstractmethod
    def fetch(self) -> None:
        """Wait for the episodes of the next iteration."""

    @abstractmethod
    def run(self, iteration: int) -> Reading:
        """Queue an iteration; return how to read its loss, its query accuracy and whether it updates parameters (1, 0).

        An iteration does not update them if its loss or gradient, or those of an earlier one, are not finite.
        """

    @abstractmethod
    def close(self) -> None:
        """Release prepared episodes."""

    @abstractmethod
    def describe(self) -> str:
        """Return whether a CUDA graph is used, and why not, for people to read."""

    def describe_sum(self) -> str:
        """Return how the tasks' gradients are added up, for people to read."""
        return self._gradient.describe()

    def _train_on(self, episodes: Episodes) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        out = self._gradient(episodes)
        # The next iteration may be queued before anyone has read that this one failed.
        self._all_finite.logical_and_(self._largest_gradient().isfinite() & out.loss.isfinite())
        self.consistent = False
        self._update_if(self._all_finite)
        return torch.stack([number.double() for number in (*out, self._all_finite)])

    def _largest_gradient(self) -> Tensor:
        """Return the largest absolute value in the gradient; NaN if one of its elements is NaN."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return nn.utils.get_total_norm(gradients, norm_type=math.inf)

    def _update_if(self, finite: Tensor) -> None:
        """Take the outer step if ``finite`` is true, without synchronizing with the device."""
        config = self._config
        if config.clip_value is not None:
            nn.utils.clip_grad_value_(self._parameters, config.clip_value)
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
        # torch.amp.GradScaler tells a fused optimizer to skip a step in the same way.
        self._optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self._optimizer.step()

    def _set_up_optimizer(self, meta_lr: float | Tensor, *, captured: bool) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = meta_lr
            group["capturable"] = captured  # Adam requires it during capture, and warns about it otherwise


class EagerIterations(MetaIterations):
    """Iterations that run operation by operation, without a CUDA graph."""

    def __init__(self, bench: Workbench, optimizer: torch.optim.Optimizer, why: str) -> None:
        super().__init__(bench, optimizer)
        self._why = why
        self._batches: Generator[Episodes, None, None]
        self._episodes: Episodes
        device = self._config.device
        self._meta_lr = None if device == "cpu" else torch.zeros((), device=device)  # in float32, as in a graph
        self.reads_late = device != "cpu"
        self._read = LateReader(torch.device(device), 3) if self.reads_late else read_at_once

    def begin(self, iteration: int) -> None:
        self._batches = self._bench.training_batches(iteration)

    def fetch(self) -> None:
        self._episodes = next(self._batches)

    def run(self, iteration: int) -> Reading:
        self._learner.begin_iteration(iteration)
        meta_lr = meta_lr_at(iteration, self._config)
        on_device = meta_lr if self._meta_lr is None else self._meta_lr.fill_(meta_lr)
        self._set_up_optimizer(on_device, captured=False)
        return self._read(self._train_on(self._episodes.to(self._config.device, non_blocking=True)))

    def close(self) -> None:
        self._batches.close()

    def describe(self) -> str:
        return f"none: {self._why}"


class GraphedIterations(MetaIterations):
    """Iterations that replay a CUDA graph, which draws its own episodes.

    Between replays only two scalars in GPU memory change: the number of the first episode, and the outer step size.
    """

    reads_late = True

    def __init__(self, bench: Workbench, optimizer: torch.optim.Optimizer, sampler: GpuSampler) -> None:
        super().__init__(bench, optimizer)
        self._sampler = sampler
        self._device = sampler.device
        self._first_episode = torch.zeros((), dtype=torch.int64, device=self._device)
        self._meta_lr = torch.zeros((), device=self._device)
        self._read = LateReader(self._device, 3)
        self._graph: CudaGraph[Tensor] = CudaGraph(WHAT, "use --no-cuda-graph (cuda_graph=False)")

    def begin(self, iteration: int) -> None:
        """No-op: the graph draws its own episodes."""

    def fetch(self) -> None:
        """No-op: the graph draws its own episodes."""

    def run(self, iteration: int) -> Reading:
        self._learner.begin_iteration(iteration)
        self._first_episode.fill_(iteration * self._config.meta_batch_size)
        self._meta_lr.fill_(meta_lr_at(iteration, self._config))
        self.consistent = False
        return self._read(self._graph(self._learner.signature(), self._device, self._captured_iteration))

    def close(self) -> None:
        """No-op: there are no prepared episodes."""

    def describe(self) -> str:
        return f"{WHAT}, from episodes to outer step, after {WARM_UP} eager ones of the same kind"

    def _captured_iteration(self) -> Tensor:
        self._set_up_optimizer(self._meta_lr, captured=torch.cuda.is_current_stream_capturing())
        return self._train_on(Episodes(*self._sampler.draw_from(self._first_episode)))


def make_iterations(bench: Workbench, optimizer: torch.optim.Optimizer) -> MetaIterations:
    """Create the iterations of a run, as a CUDA graph if ``cuda_graph`` is True, or if it is None and this is possible.

    Raises:
        RuntimeError: ``cuda_graph`` is True, but the iteration can't be captured.
    """
    asked = bench.config.cuda_graph
    if asked is False:
        return EagerIterations(bench, optimizer, "switched off")
    sampler = bench.training_sampler(0).gpu_sampler
    why = _never_captured(bench)
    if why is None and sampler is not None:
        return GraphedIterations(bench, optimizer, sampler)
    why = why or "episodes are drawn on the CPU: images are augmented, or there are no kernels for the GPU"
    if asked:
        raise RuntimeError(f"cuda_graph: {WHAT} can't be captured: {why}; leave cuda_graph out")
    return EagerIterations(bench, optimizer, why)


def _never_captured(bench: Workbench) -> str | None:
    if bench.group.size > 1:
        return "several processes add up their gradients within an iteration"
    return "fixed_order adds up the losses on the CPU" if bench.config.fixed_order else bench.learner.never_captured

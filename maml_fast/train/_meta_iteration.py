"""One meta-iteration after another: episodes, loss, meta-gradient and outer step, all queued before anybody waits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator

import torch
from torch import Tensor, nn

from maml_fast.data._episodes import Episodes
from maml_fast.data._gpu_sampler import GpuSampler
from maml_fast.maml._graphed import WARM_UP, CudaGraph
from maml_fast.train._meta_gradient import make_gradient
from maml_fast.train._schedule import meta_lr_at
from maml_fast.train._workbench import Workbench

__all__ = ["EagerIterations", "GraphedIterations", "MetaIterations", "make_iterations"]

WHAT = "the meta-iteration"


class MetaIterations(ABC):
    """The iterations of a run, one after another.

    Attributes:
        whole: False from when parameters begin to change until the caller says that all is written down.
    """

    def __init__(self, bench: Workbench, optimizer: torch.optim.Optimizer) -> None:
        self.whole = True
        self._bench, self._config, self._learner, self._optimizer = bench, bench.config, bench.learner, optimizer
        self._parameters = list(bench.learner.parameters())
        self._gradient = make_gradient(
            bench.learner, bench.group, self._config.meta_batch_size, in_order=self._config.fixed_order
        )

    @abstractmethod
    def begin(self, iteration: int) -> None:
        """From this one on."""

    @abstractmethod
    def fetch(self) -> None:
        """Wait for the next one's episodes."""

    @abstractmethod
    def run(self, iteration: int) -> Tensor:
        """Queue it; return loss, query accuracy, and 1 or 0 for whether parameters were updated: [3], float64."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the episodes that lie ready."""

    @abstractmethod
    def describe(self) -> str:
        """How they run."""

    def describe_sum(self) -> str:
        """How the tasks' gradients are added up."""
        return self._gradient.describe()

    def _train_on(self, episodes: Episodes) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        out = self._gradient(episodes)
        finite = self._largest_gradient().isfinite() & out.loss.isfinite()
        self.whole = False
        self._update_if(finite)
        return torch.stack([number.double() for number in (*out, finite)])

    def _largest_gradient(self) -> Tensor:
        """In size, of all numbers; NaN if one of them is."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return nn.utils.get_total_norm(gradients, norm_type=math.inf)

    def _update_if(self, finite: Tensor) -> None:
        """The outer step where ``finite`` is true, which the program does not wait to learn."""
        config = self._config
        if config.clip_value is not None:
            nn.utils.clip_grad_value_(self._parameters, config.clip_value)
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
        # As torch.amp.GradScaler says it to a fused optimizer.
        self._optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self._optimizer.step()

    def _set_up_optimizer(self, meta_lr: float | Tensor, *, captured: bool) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = meta_lr
            group["capturable"] = captured  # Adam demands it in a capture, and warns of it elsewhere


class EagerIterations(MetaIterations):
    """Operation by operation."""

    def __init__(self, bench: Workbench, optimizer: torch.optim.Optimizer, why: str) -> None:
        super().__init__(bench, optimizer)
        self._why = why
        self._batches: Generator[Episodes, None, None]
        self._episodes: Episodes
        device = self._config.device
        self._meta_lr = None if device == "cpu" else torch.zeros((), device=device)  # rounded as in a graph

    def begin(self, iteration: int) -> None:
        """Have episodes made ahead."""
        self._batches = self._bench.training_batches(iteration)

    def fetch(self) -> None:
        """Take the next ones."""
        self._episodes = next(self._batches)

    def run(self, iteration: int) -> Tensor:
        """Train on them."""
        self._learner.begin_iteration(iteration)
        meta_lr = meta_lr_at(iteration, self._config)
        there = meta_lr if self._meta_lr is None else self._meta_lr.fill_(meta_lr)
        self._set_up_optimizer(there, captured=False)
        return self._train_on(self._episodes.to(self._config.device, non_blocking=True))

    def close(self) -> None:
        """Make no more."""
        self._batches.close()

    def describe(self) -> str:
        """That there is no graph, and why."""
        return f"none: {self._why}"


class GraphedIterations(MetaIterations):
    """Each one as the replay of a CUDA graph, which draws its episodes itself.

    Two numbers in the GPU's memory differ from one to the next: that of the first episode, and the outer step size.
    """

    def __init__(self, bench: Workbench, optimizer: torch.optim.Optimizer, sampler: GpuSampler) -> None:
        super().__init__(bench, optimizer)
        self._sampler = sampler
        self._device = sampler.device
        self._first_episode = torch.zeros((), dtype=torch.int64, device=self._device)
        self._meta_lr = torch.zeros((), device=self._device)
        self._graph: CudaGraph[Tensor] = CudaGraph(WHAT, "use --no-cuda-graph (cuda_graph=False)")

    def begin(self, iteration: int) -> None:
        """There is nothing to make ready."""

    def fetch(self) -> None:
        """Nor to wait for."""

    def run(self, iteration: int) -> Tensor:
        """Set the two numbers, and replay."""
        self._learner.begin_iteration(iteration)
        self._first_episode.fill_(iteration * self._config.meta_batch_size)
        self._meta_lr.fill_(meta_lr_at(iteration, self._config))
        self.whole = False
        return self._graph(self._learner.signature(), self._device, self._whole)

    def close(self) -> None:
        """Nor to let go of."""

    def describe(self) -> str:
        """What is captured, and when."""
        return f"{WHAT}, from episodes to outer step, after {WARM_UP} of a kind"

    def _whole(self) -> Tensor:
        self._set_up_optimizer(self._meta_lr, captured=torch.cuda.is_current_stream_capturing())
        return self._train_on(Episodes(*self._sampler.draw_from(self._first_episode)))


def make_iterations(bench: Workbench, optimizer: torch.optim.Optimizer) -> MetaIterations:
    """Captured as ``cuda_graph`` says, or where it says nothing and that is possible.

    Raises:
        RuntimeError: it must be captured, and can't be.
    """
    asked = bench.config.cuda_graph
    if asked is False:
        return EagerIterations(bench, optimizer, "switched off")
    sampler = bench.training_sampler(0).gpu_sampler
    why = _never_captured(bench)
    if why is None and sampler is not None:
        return GraphedIterations(bench, optimizer, sampler)
    why = why or "episodes are not drawn on the GPU: there are no kernels for it"
    if asked:
        raise RuntimeError(f"cuda_graph: {WHAT} can't be captured: {why}; leave cuda_graph out")
    return EagerIterations(bench, optimizer, why)


def _never_captured(bench: Workbench) -> str | None:
    if bench.group.size > 1:
        return "several processes add up their gradients on the way"
    return "fixed_order tells each task's loss on the CPU" if bench.config.fixed_order else bench.learner.never_captured

"""Tasks in chunks, one after another: each chunk's gradient is taken and its graph freed before the next."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_multithreading_enabled
from torch.autograd.graph import Node

from maml_fast.data.episodes import Episodes
from maml_fast.maml.composed import Outcome, run
from maml_fast.maml.problem import InnerProblem
from maml_fast.maml.values import TaskResults

__all__ = [
    "ChunkedGradient",
    "OutsideGraphError",
    "TaskChunk",
    "check_task_chunk",
    "hand_out",
    "in_chunks",
    "tasks_at_once",
    "with_gradient",
]

TaskChunk: TypeAlias = int | str | None  # tasks that are held in memory together; "auto"; None for all

_AccumulateGrad = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]

BUDGET = 256 * 2**20  # bytes of an "auto" chunk's graph on a CPU, as far as one task's is not larger
GRAPH = 3  # an inner step's graph, as a multiple of what its forward pass computes, at second order


def check_task_chunk(chunk: Any) -> TaskChunk:
    """Return ``chunk`` if it is a whole number from 1 on, "auto" or None."""
    if chunk is None or chunk == "auto" or (isinstance(chunk, int) and not isinstance(chunk, bool) and chunk >= 1):
        return chunk
    raise ValueError(f"task_chunk must be a whole number of at least 1, 'auto', or None for all at once, got {chunk!r}")


def tasks_at_once(problem: InnerProblem, chunk: TaskChunk) -> int | None:
    """The number of tasks that a chunk has; ``None`` for all.

    "auto" is one where tasks run one after another anyway, else as many as fit in the budget. On an accelerator it is
    all: fewer would leave it idle.
    """
    chunk = check_task_chunk(chunk)
    if not isinstance(chunk, str):
        return chunk
    if isinstance(problem.programs, str):
        return 1
    if problem.theta.device.type != "cpu":
        return None
    support, *_, queries = (program.bytes_computed() for program in problem.programs)
    steps = GRAPH * problem.steps * support if problem.order == 2 else GRAPH * support
    return max(1, BUDGET // (steps + queries))


def in_chunks(problem: InnerProblem, episodes: Episodes, scored: Collection[int], number: int | None) -> Outcome:
    """Every task's query results and objective, so many tasks at a time."""
    parts = [run(problem, _only(tasks, episodes), scored) for tasks in _slices(episodes, number)]
    objectives = torch.cat([part.objectives for part in parts])
    return Outcome(TaskResults.joined([part.results for part in parts]), objectives)


def with_gradient(
    problem: InnerProblem, episodes: Episodes, scored: Collection[int], number: int | None
) -> tuple[TaskResults, Tensor, Mapping[Tensor, Tensor]]:
    """The results without a graph, the tasks' mean objective, and its gradients by the tensors that they are of.

    Raises:
        OutsideGraphError: see there.
    """
    gradient = ChunkedGradient(episodes.meta_batch_size)
    inside = problem.at(gradient.stand_in)
    episodes = Episodes(*map(gradient.stand_in, episodes))
    results, objectives = [], []
    with set_multithreading_enabled(False):  # so that all nodes are numbered by this thread
        for tasks in _slices(episodes, number):
            gradient.begin_chunk()
            outcome = run(inside, _only(tasks, episodes), scored)
            gradient.add(outcome.objectives)
            results.append(outcome.results.detached())
            objectives.append(outcome.objectives.detach())
            del outcome  # and with it what is left of the graph
    return TaskResults.joined(results), torch.cat(objectives).mean(), gradient.gradients


def _slices(episodes: Episodes, number: int | None) -> Iterator[slice]:
    n_tasks = episodes.meta_batch_size
    return (slice(start, start + (number or n_tasks)) for start in range(0, n_tasks, number or n_tasks))


def _only(tasks: slice, episodes: Episodes) -> Episodes:
    return Episodes(*(part[tasks] for part in episodes))


class OutsideGraphError(Exception):
    """A chunk's loss depends on a graph that other chunks and the caller need too; the message says on what."""


class ChunkedGradient:
    """Takes the gradient of every chunk's share of the mean loss as soon as the chunk is done, and frees its graph.

    What the caller hands in (parameters, rates, episodes) enters a chunk through :meth:`stand_in`, as a leaf that leads
    nowhere. What else a loss depends on, say a parameter in the closure of a ``loss_fn``, is found in its graph: no
    gradient is lost.

    Args:
        n_tasks: of all chunks.
    """

    def __init__(self, n_tasks: int) -> None:
        self._n_tasks = n_tasks
        self._stand_ins: dict[Tensor, Tensor] = {}
        self._originals: dict[Tensor, Tensor] = {}  # of the stand-ins
        self._gradients: dict[Tensor, Tensor] = {}  # of the originals, and of leaves found in the graphs
        self._begin = 0

    def stand_in(self, tensor: Tensor) -> Tensor:
        """Return a leaf with the tensor's values, whose gradient becomes the tensor's; itself if it takes none."""
        if not tensor.requires_grad:
            return tensor
        if tensor not in self._stand_ins:
            leaf = self._stand_ins[tensor] = tensor.detach().requires_grad_()
            self._originals[leaf] = tensor
        return self._stand_ins[tensor]

    def begin_chunk(self) -> None:
        """Tell the graph that is built from now on from what was there before: nodes are numbered in order."""
        torch.clear_autocast_cache()  # which holds parameters as an earlier chunk has converted them
        node = torch.zeros((), requires_grad=True).clone().grad_fn
        assert node is not None
        self._begin = node._sequence_nr()

    def add(self, losses: Tensor) -> None:
        """Add the gradient of a chunk's losses [t], and free their graph.

        Raises:
            OutsideGraphError: before anything is freed.
        """
        share = losses.sum() / self._n_tasks
        if share.grad_fn is None:
            return
        leaves = self._leaves(share.grad_fn)
        found = zip(leaves, torch.autograd.grad(share, leaves, allow_unused=True), strict=True)
        new: dict[Tensor, Tensor] = {}
        for leaf, gradient in found:
            source = self._originals.get(leaf, leaf)
            if gradient is not None:  # a loss may reach a tensor both by its stand-in and by itself
                new[source] = new[source] + gradient if source in new else gradient
        known = [source for source in new if source in self._gradients]
        if known:  # added in one call
            sums = torch._foreach_add([self._gradients[source] for source in known], [new[source] for source in known])
            new.update(zip(known, sums, strict=True))
        self._gradients.update(new)

    @property
    def gradients(self) -> Mapping[Tensor, Tensor]:
        """What was added up so far, by the tensor that it is the gradient of."""
        return self._gradients

    def _leaves(self, root: Node) -> list[Tensor]:
        """All leaves that a graph leads to."""
        leaves, seen, todo = [], {root}, [root]
        while todo:
            for node, _ in todo.pop().next_functions:
                if node is None or node in seen:
                    continue
                seen.add(node)
                if isinstance(node, _AccumulateGrad):
                    leaves.append(self._checked(node.variable))
                elif node._sequence_nr() < self._begin:
                    raise OutsideGraphError(f"the loss depends on a result of {node.name()}, from outside of MAML")
                else:
                    todo.append(node)
        return leaves

    def _checked(self, leaf: Tensor) -> Tensor:
        if leaf._backward_hooks:  # they would run for every chunk, and again for the sum
            raise OutsideGraphError(f"the loss depends on a tensor {list(leaf.shape)} with hooks, from outside of MAML")
        return leaf


def hand_out(loss: Tensor, gradients: Mapping[Tensor, Tensor]) -> Tensor:
    """Return the loss as a function of the tensors whose gradients are given."""
    return _HandOut.apply(loss, list(gradients.values()), *gradients)


class _HandOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        found = [grad_loss * gradient for gradient in ctx.saved_tensors]
        if torch.is_grad_enabled():  # create_graph=True
            found = [_Final.apply(gradient, torch.zeros((), requires_grad=True)) for gradient in found]
        return None, None, *found


class _Final(torch.autograd.Function):
    """A gradient that can't be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, _: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, None]:
        raise RuntimeError(
            "the meta-gradient is ready when maml(episodes) returns, and can't be differentiated again; "
            "maml.task_results(episodes).losses[-1].mean() is the same loss with its graph"
        )

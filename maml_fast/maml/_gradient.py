"""The gradient of a mean over tasks, added up part by part, and a loss that hands it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["ChunkedGradient", "OutsideGraphError", "final", "loss_with_gradient"]

_AccumulateGrad = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]


class OutsideGraphError(Exception):
    """A chunk's loss depends on a graph that other chunks and the caller need too; the message says on what."""


class ChunkedGradient:
    """Takes the gradient of every chunk's share of the mean loss as soon as the chunk is done, and frees its graph.

    What the caller hands in (parameters, rates, episodes) enters a chunk through :meth:`stand_in`, as a leaf that leads
    nowhere. What else a loss depends on, say a parameter in the closure of a ``loss_fn``, is found in its graph: no
    gradient is lost.

    Args:
        n_tasks: of all chunks.
        is_closed: the graphs are known to end at stand-ins alone.
    """

    def __init__(self, n_tasks: int, is_closed: bool = False) -> None:
        self._n_tasks = n_tasks
        self._is_closed = is_closed
        self._stand_ins: dict[Tensor, Tensor] = {}
        self._originals: dict[Tensor, Tensor] = {}  # of the stand-ins
        self._sums: dict[Tensor, Tensor] = {}  # of gradients, by the leaves that they are of
        self._own: set[Tensor] = set()  # leaves whose sums were made here, and may be added to in place
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
        if self._is_closed:
            return
        node = torch.zeros((), requires_grad=True).clone().grad_fn
        assert node is not None
        self._begin = node._sequence_nr()

    def add(
        self, objective: Tensor | None, others: Sequence[tuple[Tensor, Tensor]] = (), ends: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Add the gradient of a chunk's objective, and free its graph.

        Args:
            objective: of tasks [t], or of one []; ``None`` if there is none.
            others: other roots of the graph, with their gradients.
            ends: leaves at which the graph ends, and whose gradients are not added but returned.

        Raises:
            OutsideGraphError: before anything is freed.
        """
        roots = [(tensor, gradient) for tensor, gradient in others if tensor.grad_fn is not None]
        if objective is not None and objective.grad_fn is not None:
            roots.append((objective, torch.full_like(objective, 1 / self._n_tasks)))
        if not roots:
            return [torch.zeros_like(end) for end in ends]
        tensors, gradients = zip(*roots, strict=True)
        known = [*self._originals, *ends]
        leaves = known if self._is_closed else self._leaves([tensor.grad_fn for tensor in tensors])
        found = dict(zip(leaves, torch.autograd.grad(tensors, leaves, gradients, allow_unused=True), strict=True))
        at_ends = [found.pop(end, None) for end in ends]
        again = [leaf for leaf, gradient in found.items() if gradient is not None and leaf in self._sums]
        own, new = [leaf for leaf in again if leaf in self._own], [leaf for leaf in again if leaf not in self._own]
        if own:  # added in one call
            torch._foreach_add_([self._sums[leaf] for leaf in own], [found.pop(leaf) for leaf in own])
        if new:
            sums = torch._foreach_add([self._sums[leaf] for leaf in new], [found.pop(leaf) for leaf in new])
            self._sums.update(zip(new, sums, strict=True))
            self._own.update(new)
        self._sums.update((leaf, gradient) for leaf, gradient in found.items() if gradient is not None)
        return [
            torch.zeros_like(end) if gradient is None else gradient for end, gradient in zip(ends, at_ends, strict=True)
        ]

    @property
    def gradients(self) -> Mapping[Tensor, Tensor]:
        """What was added up so far, by the tensor that it is the gradient of."""
        gradients: dict[Tensor, Tensor] = {}
        for leaf, total in self._sums.items():
            source = self._originals.get(leaf, leaf)  # a loss may reach a tensor both by its stand-in and by itself
            gradients[source] = gradients[source] + total if source in gradients else total
        return gradients

    def _leaves(self, roots: list[Any]) -> list[Tensor]:
        """All leaves that a graph leads to."""
        leaves, seen, todo = [], set(roots), list(roots)
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


def loss_with_gradient(loss: Tensor, gradients: Mapping[Tensor, Tensor]) -> Tensor:
    """Return the loss as a function of the tensors whose gradients are given."""
    return _HandOut.apply(loss, list(gradients.values()), *gradients)


class _HandOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        found: Sequence[Tensor] = torch._foreach_mul(list(ctx.saved_tensors), grad_loss)
        if torch.is_grad_enabled():  # create_graph=True
            found = [final(gradient, _WITH_ITS_GRAPH) for gradient in found]
        return None, None, *found


_WITH_ITS_GRAPH = (
    "the meta-gradient is ready when maml(episodes) returns, and can't be differentiated again; "
    "maml.task_results(episodes).losses[-1].mean() is the same loss with its graph"
)


def final(gradient: Tensor, why: str) -> Tensor:
    """The gradient, with a graph, so that whoever differentiates it gets a RuntimeError that says ``why``."""
    return _Final.apply(gradient, torch.zeros((), requires_grad=True), why)


class _Final(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, _: Tensor, why: str) -> Tensor:
        ctx.why = why
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(ctx.why)

"""The gradient of a mean over tasks, accumulated chunk by chunk, and a loss that carries a ready gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["ChunkedGradient", "OutsideGraphError", "loss_with_gradient", "not_differentiable"]

_AccumulateGrad = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]


class OutsideGraphError(Exception):
    """A chunk's loss depends on a graph that other chunks and the caller also need; the message names the node."""


class ChunkedGradient:
    """Accumulates the gradient of a mean loss over chunks, and frees each chunk's graph as soon as it is done.

    Tensors of the caller (parameters, rates, episodes) enter a chunk through :meth:`stand_in`, as detached leaves.
    Other leaves that a loss depends on, such as a parameter in the closure of a ``loss_fn``, are found in its graph, so
    that no gradient is lost.

    Args:
        n_tasks: number of tasks in all chunks.
        is_closed: the graphs are known to end only at stand-ins, so they need not be searched for other leaves.
    """

    def __init__(self, n_tasks: int, is_closed: bool = False) -> None:
        self._n_tasks = n_tasks
        self._is_closed = is_closed
        self._stand_ins: dict[Tensor, Tensor] = {}
        self._originals: dict[Tensor, Tensor] = {}  # by stand-in
        self._sums: dict[Tensor, Tensor] = {}  # sums of gradients, by leaf
        self._own: set[Tensor] = set()  # leaves whose sums were allocated here and can be updated in place
        self._begin = 0

    def stand_in(self, tensor: Tensor) -> Tensor:
        """Return a leaf that shares the tensor's values and whose gradient is the tensor's; itself if it needs none."""
        if not tensor.requires_grad:
            return tensor
        if tensor not in self._stand_ins:
            leaf = self._stand_ins[tensor] = tensor.detach().requires_grad_()
            self._originals[leaf] = tensor
        return self._stand_ins[tensor]

    def begin_chunk(self) -> None:
        """Mark the start of a chunk; the numbers of autograd nodes distinguish its graph from older ones."""
        torch.clear_autocast_cache()  # it holds parameters that an earlier chunk converted, with their graph
        if self._is_closed:
            return
        node = torch.zeros((), requires_grad=True).clone().grad_fn
        assert node is not None
        self._begin = node._sequence_nr()

    def add(
        self, objective: Tensor | None, extra_roots: Sequence[tuple[Tensor, Tensor]] = (), ends: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Add the gradient of a chunk's objective, and free the chunk's graph.

        Args:
            objective: objectives of the chunk's tasks, [t], or of one task, []; ``None`` if there is none.
            extra_roots: other roots of the graph, each with its gradient.
            ends: leaves of the graph whose gradients are returned instead of added.

        Returns:
            The gradients with respect to ``ends``; zeros where the objective does not depend on one.

        Raises:
            OutsideGraphError: the graph extends beyond the chunk. Nothing has been freed yet.
        """
        roots = [(tensor, gradient) for tensor, gradient in extra_roots if tensor.grad_fn is not None]
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
        if own:
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
        """The accumulated gradients, by the caller's tensor."""
        gradients: dict[Tensor, Tensor] = {}
        for leaf, total in self._sums.items():
            source = self._originals.get(leaf, leaf)  # a loss may use a tensor both through its stand-in and directly
            gradients[source] = gradients[source] + total if source in gradients else total
        return gradients

    def _leaves(self, roots: list[Any]) -> list[Tensor]:
        """Return all leaves of a graph."""
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
        if leaf._backward_hooks:  # they would run for every chunk and once more for the sum
            raise OutsideGraphError(f"the loss depends on a tensor {list(leaf.shape)} with hooks, from outside of MAML")
        return leaf


def loss_with_gradient(loss: Tensor, gradients: Mapping[Tensor, Tensor]) -> Tensor:
    """Return ``loss`` with a graph whose backward pass yields the given gradients, by source tensor."""
    return _PrecomputedGradient.apply(loss, list(gradients.values()), *gradients)


class _PrecomputedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        found: Sequence[Tensor] = torch._foreach_mul(list(ctx.saved_tensors), grad_loss)
        if torch.is_grad_enabled():  # create_graph=True
            found = [not_differentiable(gradient, _NO_DOUBLE_BACKWARD) for gradient in found]
        return None, None, *found


_NO_DOUBLE_BACKWARD = (
    "the meta-gradient is ready when maml(episodes) returns, and can't be differentiated again; "
    "maml.task_results(episodes).losses[-1].mean() is the same loss with its graph"
)


def not_differentiable(gradient: Tensor, why: str) -> Tensor:
    """Return the gradient with a graph that raises a RuntimeError with the message ``why`` when differentiated."""
    return _NotDifferentiable.apply(gradient, torch.zeros((), requires_grad=True), why)


class _NotDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, _: Tensor, why: str) -> Tensor:
        ctx.why = why
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(ctx.why)

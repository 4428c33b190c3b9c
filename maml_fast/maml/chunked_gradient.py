"""The gradient of a mean over tasks, added up chunk by chunk, and a loss that hands it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

__all__ = ["ChunkedGradient", "OutsideGraphError", "hand_out"]

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
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the meta-gradient itself can't be differentiated (create_graph=True) once the tasks' graphs are gone; "
                "use task_chunk=None, which keeps them: MAML(..., task_chunk=None)"
            )
        return None, None, *(grad_loss * gradient for gradient in ctx.saved_tensors)

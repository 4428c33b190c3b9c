"""The meta-objective and its gradient as one CUDA graph, behind a loss that hands the gradient out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_multithreading_enabled

from maml_fast.data.episodes import Episodes
from maml_fast.maml.chunked_gradient import ChunkedGradient, OutsideGraphError, hand_out
from maml_fast.maml.cuda_graph import CudaGraph, check_capturable
from maml_fast.maml.results import TaskResults

__all__ = ["GraphedLoss"]

REMEDY = "leave cuda_graph out"

StandIn: TypeAlias = Callable[[Tensor], Tensor]
LossOf: TypeAlias = Callable[[Episodes, StandIn], tuple[TaskResults, Tensor]]


class GraphedLoss:
    """Replays ``loss_of(episodes, stand_in) -> (results, loss)`` with the loss's gradient, on episodes of its own.

    The loss must depend on ``stand_in(parameter)`` in the place of every parameter. A parameter's own node in
    autograd's graph lives as long as any loss of the caller's does, and belongs to the stream of its first use: work
    that met it in a capture would make the caller's stream wait for the captured one, which breaks the capture off.
    """

    def __init__(self) -> None:
        self._graph: CudaGraph[_Answer] = CudaGraph("MAML's loss and meta-gradient", REMEDY)
        self._held: Episodes | None = None

    def __call__(self, key: Hashable, episodes: Episodes, loss_of: LossOf) -> tuple[TaskResults, Tensor]:
        """The results without a graph, and the loss, which carries the gradient; both are the caller's to keep.

        Raises:
            RuntimeError: not on a GPU, or what can't be captured; :class:`CudaGraph` says what that is.
        """
        device = episodes.x_spt.device
        check_capturable("cuda_graph=True", device)
        if torch._C._are_functorch_transforms_active() or any(x.requires_grad for x in episodes):
            raise RuntimeError(
                "cuda_graph=True gives the gradient of parameters alone: neither that of images nor what torch.func "
                f"asks for; {REMEDY}"
            )
        held = self._hold(episodes)
        places = tuple((_kind(x), x.data_ptr()) for x in held)
        answer = self._graph((key, places), device, lambda: _answer(loss_of, held))
        results = answer.results._replace(
            losses=answer.results.losses.clone(),
            correct=None if answer.results.correct is None else answer.results.correct.clone(),
        )
        return results, hand_out(answer.loss, {source: g.clone() for source, g in answer.gradients.items()})

    @property
    def is_captured(self) -> bool:
        """Whether the last call was replayed."""
        return self._graph.is_captured

    def _hold(self, episodes: Episodes) -> Episodes:
        """The episodes where the graph reads them."""
        if self._held is None or [_kind(x) for x in self._held] != [_kind(x) for x in episodes]:
            self._held = Episodes(*(torch.empty_like(x) for x in episodes))
        for held, x in zip(self._held, episodes, strict=True):
            held.copy_(x)
        return self._held


class _Answer(NamedTuple):
    results: TaskResults
    loss: Tensor
    gradients: Mapping[Tensor, Tensor]


def _answer(loss_of: LossOf, episodes: Episodes) -> _Answer:
    gradient = ChunkedGradient(1)
    with set_multithreading_enabled(False):  # so that all nodes are numbered by this thread
        gradient.begin_chunk()
        results, loss = loss_of(episodes, gradient.stand_in)
        try:
            gradient.add(loss[None])
        except OutsideGraphError as error:
            raise RuntimeError(f"cuda_graph=True: {error}; {REMEDY}") from error
    return _Answer(results, loss.detach(), gradient.gradients)


def _kind(x: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return x.shape, x.dtype, x.device

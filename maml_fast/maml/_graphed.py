"""Whole meta-iterations as one CUDA graph: captured once and replayed, without Python between its kernels."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TextIO, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_multithreading_enabled

from maml_fast.data._episodes import Episodes
from maml_fast.maml._gradient import ChunkedGradient, OutsideGraphError, loss_with_gradient
from maml_fast.maml._values import TaskResults

__all__ = ["WARM_UP", "CudaGraph", "GraphedLoss", "check_capturable", "waits_for_gpu"]

Result = TypeVar("Result")

WARM_UP = 3  # calls before the capture, as PyTorch's manual has it: libraries set themselves up in them
_SYNCHRONIZING = "called a synchronizing CUDA operation"  # PyTorch's warning

logger = logging.getLogger("maml_fast")


@dataclass(frozen=True)
class _Captured(Generic[Result]):
    graph: torch.cuda.CUDAGraph
    result: Result


class CudaGraph(Generic[Result]):
    """Calls a function of no arguments, and replays it from the call on that is the fourth of its kind.

    The function reads and writes memory that stays where it is, and its result, too, is always the same tensors: each
    replay overwrites them. What it does in Python happens in the first calls alone. Calls are of one kind while their
    ``key`` and PyTorch's own settings are equal; with another kind all begins anew.

    Args:
        what: is captured; for the log and for errors.
        remedy: what to do where it can't be.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self._what, self._remedy = what, remedy
        self._kind: Hashable = None
        self._calls = 0
        self._stream: torch.cuda.Stream | None = None
        self._captured: _Captured[Result] | None = None

    def __call__(self, key: Hashable, device: torch.device, function: Callable[[], Result]) -> Result:
        """The function's result; ``device`` is where it works.

        Raises:
            RuntimeError: the function waits for the GPU, or moves data to or from it.
        """
        kind = (key, device, _settings())
        if kind != self._kind:
            self._kind, self._calls, self._stream, self._captured = kind, 0, None, None
        with torch.cuda.device(device):
            if self._captured is None and self._calls < WARM_UP:
                self._calls += 1
                return self._run_watched(function) if self._calls == WARM_UP else self._run_aside(function)
            if self._captured is None:
                self._captured = self._capture(function)
            self._captured.graph.replay()
        return self._captured.result

    @property
    def is_captured(self) -> bool:
        """Whether the last call was replayed."""
        return self._captured is not None

    def _run_watched(self, function: Callable[[], Result]) -> Result:
        """Run it in the last call before the capture, and refuse it if it waited for the GPU.

        A capture would find that out too, but before PyTorch 2.12 one that breaks off leaves the process unable to make
        another (pytorch #180395).
        """
        with waits_for_gpu() as waits:
            result = self._run_aside(function)
        if waits:
            raise self._refusal(f"{_SYNCHRONIZING} at {waits[0]}")
        return result

    def _run_aside(self, function: Callable[[], Result]) -> Result:
        """Run it on the stream that it is going to be captured on."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = function()
        current.wait_stream(self._stream)
        return result

    def _capture(self, function: Callable[[], Result]) -> _Captured[Result]:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as a DataLoader's, may go on with what only a captured stream must not do.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),  # comes back also where a capture breaks off
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                result = function()
        except RuntimeError as error:
            cause = error.__context__ or error  # the former is what broke it off
            raise self._refusal((str(cause).splitlines() or [type(cause).__name__])[0]) from error
        logger.info("%s: captured as a CUDA graph, which is replayed from now on", self._what)
        return _Captured(graph, result)

    def _refusal(self, why: str) -> RuntimeError:
        return RuntimeError(
            f"{self._what} can't be captured as a CUDA graph: {why}; nothing in it may wait for the GPU or copy to or "
            "from it (.item(), print, torch.tensor, masks as indices), and no result of an earlier call may be alive "
            f"that depends on a parameter of a loss_fn's own; or {self._remedy}"
        )


def check_capturable(what: str, device: torch.device) -> None:
    """Raise RuntimeError unless work on this device can be captured."""
    if device.type != "cuda":
        raise RuntimeError(f"{what} is for a GPU, but the model is on {device}; move it to cuda, or leave {what} out")


def _settings() -> Hashable:
    """Of PyTorch those that change which kernels run."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        torch.are_deterministic_algorithms_enabled(),
    )


@contextmanager
def waits_for_gpu() -> Iterator[list[str]]:
    """Collect the places, as ``file:line``, where this thread waits for the GPU inside the block.

    PyTorch's debug mode holds for the whole process. It is set to warn rather than to raise, so that other threads,
    such as a prefetcher's, may go on waiting for the GPU.
    """
    places: list[str] = []
    thread = threading.get_ident()
    mode, show = torch.cuda.get_sync_debug_mode(), warnings.showwarning

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if _SYNCHRONIZING not in str(message):
            show(message, category, filename, lineno, file, line)
        elif threading.get_ident() == thread:
            places.append(f"{filename}:{lineno}")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch says once in a process that this mode is a prototype
            torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=_SYNCHRONIZING)
            warnings.showwarning = note
            yield places
    finally:
        torch.cuda.set_sync_debug_mode(mode)
        warnings.showwarning = show


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
        return results, loss_with_gradient(answer.loss, {source: g.clone() for source, g in answer.gradients.items()})

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
            gradient.add(loss)
        except OutsideGraphError as error:
            raise RuntimeError(f"cuda_graph=True: {error}; {REMEDY}") from error
    return _Answer(results, loss.detach(), gradient.gradients)


def _kind(x: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return x.shape, x.dtype, x.device

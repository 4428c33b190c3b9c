"""CUDA graphs: meta-iterations captured once and replayed without Python between their kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_multithreading_enabled

from maml_fast.data._episodes import Episodes
from maml_fast.inner_loop._gpu_waits import SYNCHRONIZING, waits_for_gpu
from maml_fast.inner_loop._gradient import ChunkedGradient, OutsideGraphError, loss_with_gradient
from maml_fast.inner_loop._values import TaskResults

__all__ = ["WARM_UP", "CudaGraph", "GraphedLoss", "check_capturable"]

Result = TypeVar("Result")

WARM_UP = 3  # calls before the capture, as PyTorch's manual recommends: libraries initialize in them
MOST_SIZES = 4  # of meta-batches, each with a graph and memory of its own

logger = logging.getLogger("maml_fast")


@dataclass(frozen=True)
class _Captured(Generic[Result]):
    graph: torch.cuda.CUDAGraph
    result: Result


class CudaGraph(Generic[Result]):
    """Calls a function without arguments, captures it at the fourth call of a kind, and replays it from then on.

    The function must read and write memory at fixed addresses. A replay returns the same result tensors every time and
    overwrites their values. Python code in the function runs only in the first calls. Calls are of the same kind while
    their ``key`` and PyTorch's global settings are equal; a call of another kind starts over.

    Args:
        what: name of what is captured, for the log and for errors.
        remedy: what to do if the capture fails, for errors.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self._what, self._remedy = what, remedy
        self._kind: Hashable = None
        self._calls = 0
        self._stream: torch.cuda.Stream | None = None
        self._captured: _Captured[Result] | None = None

    def __call__(self, key: Hashable, device: torch.device, function: Callable[[], Result]) -> Result:
        """Return the function's result; ``device`` is the device that it runs on.

        Raises:
            RuntimeError: the function synchronizes with the GPU, or copies data to or from it.
        """
        kind = (key, device, _settings())
        if kind != self._kind:
            self._kind, self._calls, self._stream, self._captured = kind, 0, None, None
        with torch.cuda.device(device):
            if self._captured is None and self._calls < WARM_UP:
                self._calls += 1
                return self._run_watched(function) if self._calls == WARM_UP else self._run_on_side_stream(function)
            if self._captured is None:
                self._captured = self._capture(function)
            self._captured.graph.replay()
        return self._captured.result

    @property
    def is_captured(self) -> bool:
        """Whether the last call was a replay."""
        return self._captured is not None

    def _run_watched(self, function: Callable[[], Result]) -> Result:
        """Run the last call before the capture, and raise if it synchronized with the GPU.

        The capture would detect this too, but before PyTorch 2.12 a failed capture leaves the process unable to start
        another one (pytorch #180395).
        """
        with waits_for_gpu() as waits:
            result = self._run_on_side_stream(function)
        if waits:
            raise self._capture_error(f"{SYNCHRONIZING} at {waits[0]}")
        return result

    def _run_on_side_stream(self, function: Callable[[], Result]) -> Result:
        """Run the function on the stream that it will be captured on."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                return function()
        finally:  # also after an error: what is queued may still read the function's memory
            current.wait_stream(self._stream)

    def _capture(self, function: Callable[[], Result]) -> _Captured[Result]:
        graph = torch.cuda.CUDAGraph()
        try:
            # "thread_local": other threads, such as a DataLoader's, may still make calls that a capture forbids.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),  # restores the stream if the capture fails
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                result = function()
        except RuntimeError as error:
            cause = error.__context__ or error  # the context is what made the capture fail
            raise self._capture_error((str(cause).splitlines() or [type(cause).__name__])[0]) from error
        logger.info("%s: captured as a CUDA graph, which is replayed from now on", self._what)
        return _Captured(graph, result)

    def _capture_error(self, why: str) -> RuntimeError:
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
    """Return PyTorch's global settings that affect which kernels run."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        torch.are_deterministic_algorithms_enabled(),
    )


REMEDY = "leave cuda_graph out"

StandIn: TypeAlias = Callable[[Tensor], Tensor]
LossOf: TypeAlias = Callable[[Episodes, StandIn], tuple[TaskResults, Tensor]]


class GraphedLoss:
    """Replays ``loss_of(episodes, stand_in) -> (results, loss)`` and the loss's gradient, on a copy of the episodes.

    The loss must use ``stand_in(parameter)`` instead of every parameter. The autograd node of a parameter itself lives
    as long as any of the caller's losses, and belongs to the stream of its first use. If the captured work reached it,
    the caller's stream would have to wait for the captured stream, which makes the capture fail.

    Meta-batches of several sizes may take turns: each size has a graph of its own, and the ones used last are kept.
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._sizes: dict[Hashable, _GraphOfSize] = {}  # by the episodes' layouts; the one used last is the last
        self._last: _GraphOfSize | None = None

    def __call__(self, key: Hashable, episodes: Episodes, loss_of: LossOf) -> tuple[TaskResults, Tensor]:
        """Return the results without a graph, and the loss with its gradient; later replays do not overwrite them.

        Raises:
            RuntimeError: the episodes are not on a GPU, a gradient of the episodes or a transform of ``torch.func`` is
                requested, or the work can't be captured (see :class:`CudaGraph`).
        """
        device = episodes.x_spt.device
        check_capturable("cuda_graph=True", device)
        if torch._C._are_functorch_transforms_active() or any(x.requires_grad for x in episodes):
            raise RuntimeError(
                "cuda_graph=True computes the gradient of parameters only, not that of images or under transforms of "
                f"torch.func; {REMEDY}"
            )
        self._last = self._of_size(key, episodes)
        outputs = self._last(key, device, episodes, loss_of)
        results = outputs.results._replace(
            losses=outputs.results.losses.clone(),
            correct=None if outputs.results.correct is None else outputs.results.correct.clone(),
        )
        return results, loss_with_gradient(outputs.loss, {source: g.clone() for source, g in outputs.gradients.items()})

    @property
    def is_captured(self) -> bool:
        """Whether the last call was a replay."""
        return self._last is not None and self._last.graph.is_captured

    def _of_size(self, key: Hashable, episodes: Episodes) -> _GraphOfSize:
        """Return the graph for episodes of this size; all graphs are dropped if the key is another one."""
        if key != self._key:
            self._key, self._sizes = key, {}
        size = tuple(map(_layout, episodes))
        known = self._sizes.pop(size, None) or _GraphOfSize(episodes)
        if len(self._sizes) == MOST_SIZES:
            del self._sizes[next(iter(self._sizes))]
        self._sizes[size] = known
        return known


class _GraphOfSize:
    """A graph, and the memory that it reads episodes like these from."""

    def __init__(self, episodes: Episodes) -> None:
        self.graph: CudaGraph[_Outputs] = CudaGraph("MAML's loss and meta-gradient", REMEDY)
        self._held = Episodes(*(torch.empty_like(x) for x in episodes))

    def __call__(self, key: Hashable, device: torch.device, episodes: Episodes, loss_of: LossOf) -> _Outputs:
        self._copy_in(episodes)
        return self.graph(key, device, lambda: _compute(loss_of, self._held))

    def _copy_in(self, episodes: Episodes) -> None:
        for held, x in zip(self._held, episodes, strict=True):
            held.copy_(x)


class _Outputs(NamedTuple):
    results: TaskResults
    loss: Tensor
    gradients: Mapping[Tensor, Tensor]


def _compute(loss_of: LossOf, episodes: Episodes) -> _Outputs:
    gradient = ChunkedGradient(1)
    with set_multithreading_enabled(False):  # this thread numbers all nodes: see _composed.single_threaded_autograd
        gradient.begin_chunk()
        results, loss = loss_of(episodes, gradient.stand_in)
        try:
            gradient.add(loss)
        except OutsideGraphError as error:
            raise RuntimeError(f"cuda_graph=True: {error}; {REMEDY}") from error
    return _Outputs(results, loss.detach(), gradient.gradients)


def _layout(x: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return x.shape, x.dtype, x.device

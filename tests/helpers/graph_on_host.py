"""CUDA graphs, played by the host: what was captured is run again, on the same memory, and nothing else is.

A capture takes down every operation with its arguments. A replay runs these operations, in this order, and writes each
result where it was. So Python's numbers stay what they were, as in a graph. Memory that the captured work reads but did
not make is known by a weak reference: where nobody else holds it, a replay fails, as a graph would read what lies there
then. What a graph can't hold, such as reading a number, breaks the capture off.

Streams have identity (helpers/streams_on_host.py): work of one stream that does not wait for another's is found out,
and so is captured work that meets a leaf whose node was made on another stream.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from streams_on_host import PlayedDevice, Stream
from torch import Tensor
from torch.autograd.graph import Node
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
FORBIDDEN = {
    aten._local_scalar_dense.default: "reads a number",
    aten.lift_fresh.default: "makes a tensor of Python's numbers",
    aten.nonzero.default: "gives a result of unknown size",
    aten.masked_select.default: "gives a result of unknown size",
}
capturing: list[HostGraph] = []  # one, or none


class Outside:
    """A tensor that captured work reads, and did not make."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._view = tensor.size(), tensor.stride(), tensor.storage_offset()
        self._dtype = tensor.dtype

    def whole(self) -> Tensor:
        """All of its memory."""
        return torch.empty(0, dtype=self._dtype).set_(self._held())

    def tensor(self) -> Tensor:
        """The same view of the same memory."""
        return torch.empty(0, dtype=self._dtype).set_(self._held(), self._view[2], *self._view[:2])

    def _held(self) -> torch.UntypedStorage:
        if self._storage.expired():
            raise RuntimeError(f"a graph reads memory that is no longer anybody's: {list(self._view[0])}")
        return torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)


class HostGraph(TorchDispatchMode):
    """Stands in for ``torch.cuda.CUDAGraph``. Entered, it captures."""

    def __init__(self) -> None:
        super().__init__()
        self._own: dict[int, torch.UntypedStorage] = {}  # memory of the graph's own, by address
        self._made: list[Tensor] = []
        self._work: list[Callable[[], None]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # what outside memory held, by address

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in FORBIDDEN:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function} {FORBIDDEN[function]}")
        arguments = (args, kwargs or {})
        if function._schema.is_mutable:
            tree_map(self._save, arguments)
        result = function(*args, **(kwargs or {}))
        known = tree_map(self._known, arguments)
        places = [each.detach() for each in _new_tensors(function, result)]
        for each in places:
            self._own[each.data_ptr()] = each.untyped_storage()
        self._made += places

        def again() -> None:
            args, kwargs = tree_map(lambda each: each.tensor() if isinstance(each, Outside) else each, known)
            for place, value in zip(places, _new_tensors(function, function(*args, **kwargs)), strict=True):
                place.copy_(value)

        self._work.append(again)
        return result

    def __exit__(self, *error: Any) -> None:
        """Undo what was done: a capture runs nothing."""
        super().__exit__(*error)
        with torch.no_grad():
            for tensor, before in self._before.values():
                tensor.copy_(before)
            for tensor in self._made:
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)

    def replay(self) -> None:
        """As often as one likes."""
        with torch.no_grad():
            for again in self._work:
                again()

    def _is_own(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._own

    def _save(self, value: Any) -> None:
        if isinstance(value, Tensor) and not self._is_own(value):
            whole = Outside(value).whole()
            self._before.setdefault(whole.data_ptr(), (whole, whole.clone()))

    def _known(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach() if self._is_own(value) else Outside(value)


def _new_tensors(function: Any, result: Any) -> list[Tensor]:
    """What an operation made, rather than looked at or wrote into."""
    returns = function._schema.returns
    results = (result,) if len(returns) == 1 else result or ()
    made = [each for each, how in zip(results, returns, strict=True) if how.alias_info is None]
    return [each for each in tree_flatten(made)[0] if isinstance(each, Tensor)]


class Player:
    """Plays ``torch.cuda.graph`` on a device with streams."""

    def __init__(self, device: PlayedDevice) -> None:
        self._device = device

    @contextlib.contextmanager
    def capture(self, graph: HostGraph, stream: Stream | None, capture_error_mode: str) -> Iterator[None]:
        """Capture on this stream, or on one of its own."""
        stream = stream or Stream(self._device)
        self._device.synchronize()  # as torch.cuda.graph does
        capturing.append(graph)
        with pytest.MonkeyPatch.context() as patch, self._device.on(stream):
            for name in ("grad", "backward"):
                refusing = _refusing_other_streams(getattr(torch.autograd, name), stream)
                patch.setattr(torch.autograd, name, refusing)
            try:
                with graph:
                    yield
            finally:
                capturing.clear()
                self._device.synchronize()  # nothing has run


def _refusing_other_streams(function: Callable[..., Any], stream: Stream) -> Callable[..., Any]:
    """Work that meets a node of another stream would make that stream wait, which breaks the capture off."""

    def call(outputs: Tensor | Iterable[Tensor], *arguments: Any, **options: Any) -> Any:
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        seen: set[Node] = set()
        todo = [each.grad_fn for each in outputs if each.grad_fn is not None]
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.metadata.get("stream", stream) is not stream:
                raise RuntimeError(f"capture invalidated: the node of a leaf {list(node.variable.shape)} is older")
            todo += [following for following, _ in node.next_functions if following is not None]
        return function(outputs, *arguments, **options)

    return call


@pytest.fixture
def graphs_on_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedDevice]:
    """Let what is captured on the CPU be played so, and values not be looked at, as they are not on a GPU."""
    device = play_graphs(monkeypatch)
    gc.freeze()  # a switch of streams looks for leaves among a test's own objects, not among all that Python holds
    with device:
        yield device


def play_graphs(monkeypatch: pytest.MonkeyPatch) -> PlayedDevice:
    """The same without pytest; nobody looks at the order of streams unless the device that is returned is entered."""
    for name in ("data._checks.check_values", "inner_loop._losses.check_range", "inner_loop._graphed.check_capturable"):
        monkeypatch.setattr(f"maml_fast.{name}", lambda *_: None)
    device = PlayedDevice(waiting=FORBIDDEN)
    played = {
        "get_sync_debug_mode": lambda: device.sync_mode,
        "set_sync_debug_mode": device.set_sync_mode,
        "CUDAGraph": HostGraph,
        "graph": Player(device).capture,
        "Stream": lambda: Stream(device),
        "current_stream": lambda: device.current,
        "stream": device.on,
        "device": lambda _: contextlib.nullcontext(),
        "is_current_stream_capturing": lambda: bool(capturing),
    }
    for name, player in played.items():
        monkeypatch.setattr(torch.cuda, name, player)
    return device

"""A GPU's streams, played by the host: who waits for whom, and whether anybody takes what is not there yet.

The host does the work of all streams at once, in the order of the calls. What a GPU might do in another order is found
by clocks: each stream counts its operations, and knows up to which operation of each other stream it has waited. An
operation must know of the last write to all memory that it touches, and where it writes, of the last reads as well.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VIEWS_OF_STORAGE = {torch.ops.aten.set_.source_Storage, torch.ops.aten.set_.source_Storage_storage_offset}


class Stream:
    """Stands in for ``torch.cuda.Stream``."""

    def __init__(self, device: PlayedDevice) -> None:
        self.seen = {self: 0}  # of each stream the last operation that this one comes after
        device.streams.append(self)

    def wait_stream(self, other: Stream) -> None:
        for stream, count in other.seen.items():
            self.seen[stream] = max(count, self.seen.get(stream, 0))


@dataclass
class _Memory:
    """The last operations on a piece of memory."""

    writer: tuple[Stream, int] | None = None
    readers: dict[Stream, int] = field(default_factory=dict)


class PlayedDevice(TorchDispatchMode):
    """Follows all operations of the threads that have entered it.

    Args:
        waiting: the operations for which the CPU waits for the GPU, with reasons.
    """

    def __init__(self, waiting: Mapping[Any, str]) -> None:
        super().__init__()
        self.streams: list[Stream] = []
        self.sync_mode: int | str = 0
        self._waiting = waiting
        self._has_warned = False
        self._default = Stream(self)
        self._of_thread = threading.local()
        self._memory: dict[int, _Memory] = {}  # by storage

    @property
    def current(self) -> Stream:
        """The current stream of this thread."""
        return getattr(self._of_thread, "stream", self._default)

    @contextlib.contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """Stands in for ``torch.cuda.stream``."""
        before = self.current
        self._mark_leaves()
        self._of_thread.stream = stream
        try:
            yield
        finally:
            self._mark_leaves()
            self._of_thread.stream = before

    def synchronize(self) -> None:
        """Let all streams wait for all."""
        for stream in self.streams:
            for other in self.streams:
                stream.wait_stream(other)

    def set_sync_mode(self, mode: int | str) -> None:
        """Set the debug mode for synchronization, of the whole process, and warn once, after that, as PyTorch does."""
        self.sync_mode = mode
        if not self._has_warned:
            self._has_warned = True
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = kwargs or {}
        if function in self._waiting and self.sync_mode in ("warn", "error"):
            waits = f"called a synchronizing CUDA operation: {function} {self._waiting[function]}"
            if self.sync_mode == "error":
                raise RuntimeError(waits)
            warnings.warn(waits, stacklevel=2)
        result = function(*args, **arguments)
        self._note(function, args, arguments, result)
        return result

    def _note(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        stream, schema = self.current, function._schema
        stream.seen[stream] += 1
        if function in self._waiting:  # what comes after that comes after all that this stream has done
            for other in self.streams:
                other.wait_stream(stream)
        given = [*zip(schema.arguments, args, strict=False)]
        given += [(each, kwargs[each.name]) for each in schema.arguments if each.name in kwargs]
        old = set()
        for argument, value in given:
            alias = argument.alias_info
            is_view = (alias is not None and not alias.is_write) or function in VIEWS_OF_STORAGE
            for tensor in _tensors(value):
                old.add(_storage(tensor))
                if not is_view:
                    self._touch(stream, tensor, alias is not None, function)
        for tensor in _tensors(result):
            if _storage(tensor) not in old:  # new memory
                self._memory[_storage(tensor)] = _Memory((stream, stream.seen[stream]))

    def _touch(self, stream: Stream, tensor: Tensor, writes: bool, function: Any) -> None:
        memory = self._memory.setdefault(_storage(tensor), _Memory())
        before = [*([memory.writer] if memory.writer else []), *(memory.readers.items() if writes else ())]
        for other, count in before:
            if stream.seen.get(other, 0) < count:
                does = "writes" if writes else "reads"
                raise RuntimeError(
                    f"{function} {does} {list(tensor.shape)} and did not wait for the stream that uses it"
                )
        if writes:
            memory.writer, memory.readers = (stream, stream.seen[stream]), {}
        else:
            memory.readers[stream] = stream.seen[stream]

    def _mark_leaves(self) -> None:
        """Mark the nodes of leaves that somebody's graph holds: they belong to the stream that they were made on.

        Where nobody holds a leaf's node, the one that is marked here is gone again at once.
        """
        for each in gc.get_objects():
            if type(each) in (Tensor, nn.Parameter) and each.requires_grad and each.is_leaf:  # not lazy or fake ones
                get_gradient_edge(each).node.metadata.setdefault("stream", self.current)


def _tensors(value: Any) -> list[Tensor]:
    return [each for each in tree_leaves(value) if isinstance(each, Tensor) and each.layout is torch.strided]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata

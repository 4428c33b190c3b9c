"""The user's own module, run as it is written, with a task's tensors in the place of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import set_checkpoint_early_stop

from maml_fast.program._batch_norm import BATCH_NORMS, BatchNormMode, BatchNormPolicy
from maml_fast.program._watch import RENEWED, Watch, is_library

__all__ = ["AsWritten", "Place", "counters_of", "places_of", "swapped", "with_its_own_tensors"]

# By part of a model, whichever models and learners share it: it holds the tensors of one thread at a time.
_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_MAKING_LOCKS = threading.Lock()

_RUNNING = ("running_mean", "running_var")


def with_its_own_tensors(model: nn.Module) -> AbstractContextManager[Any]:
    """A context, in which no other thread runs a part of the model with a task's tensors in the place of its own."""
    with _MAKING_LOCKS:
        parts = list(model.modules())
        found = {id(lock): lock for lock in map(_LOCKS.get, parts) if lock is not None}
        locks = [found[each] for each in sorted(found)] or [threading.RLock()]
        for part in parts:
            _LOCKS.setdefault(part, locks[0])
    return locks[0] if len(locks) == 1 else _AllOf(locks)


class _AllOf:
    """Locks of models that became parts of one. Everyone takes them in the same order."""

    def __init__(self, locks: Sequence[Any]) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        for lock in self._locks:
            lock.acquire()

    def __exit__(self, *_: object) -> None:
        for lock in self._locks:
            lock.release()


class AsWritten:
    """Runs a module by a task's tensors: ``as_written.begin_task()(parameters, x) -> logits``.

    Whatever else ``forward`` does, it does to the module itself: attributes, containers and hooks are the user's own.
    Only the parameters are those given, and the buffers are copies that the task keeps from call to call. Another
    thread's call of the same model waits meanwhile.
    """

    def __init__(self, model: nn.Module, policy: BatchNormPolicy, watch: Watch | None) -> None:
        self._model = model
        self._policy = policy
        self._lock = with_its_own_tensors(model)
        with self._lock:
            self._places = places_of(model)
            buffers = [part._buffers for part in model.modules()]
            self._buffers = [place for place in self._places if any(place.holder is each for each in buffers)]
            norms = [name for name, part in model.named_modules() if isinstance(part, _BatchNorm)]
        self._needs_mode = not _normalizes_by_layers(model, watch) or (norms != [] and policy != "batch")
        # A batch norm without running statistics takes the batch's.
        left_out = [] if self._needs_mode else [f"{name}.{key}" if name else key for name in norms for key in _RUNNING]
        self._left_out = frozenset(left_out)

    def begin_task(self, buffers: Mapping[str, Tensor | None] | None = None) -> partial[Tensor]:
        """A task's calls: logits [N, ...] of all of the module's parameters [...] and x [N, ...].

        The task has copies of the module's buffers, or of these.
        """
        if buffers is None:
            with self._lock:
                buffers = {name: holder[key] for holder, key, name, _ in reversed(self._buffers)}
            buffers.update(dict.fromkeys(self._left_out.intersection(buffers)))
        return partial(self._run, {name: _clone(buffer) for name, buffer in buffers.items()})

    def _run(self, buffers: dict[str, Tensor | None], parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        with self._lock, swapped(self._places, {**parameters, **buffers}) as left:
            logits = self._call(x)
        buffers.update((name, left.get(name, buffer)) for name, buffer in buffers.items())
        if not isinstance(logits, Tensor):
            raise TypeError(f"the model must return one tensor of logits, got {type(logits).__name__}")
        return logits

    def _call(self, x: Tensor) -> Any:
        if not self._needs_mode:
            return self._model(x)
        with set_checkpoint_early_stop(False), _Mode(self._policy):
            return self._model(x)


@contextmanager
def swapped(places: Sequence[Place], tensors: Mapping[str, Tensor | None]) -> Iterator[dict[str, Any]]:
    """Inside this context a model holds these tensors; afterwards the dictionary says what it held at the end."""
    own: list[Any] = []
    left: dict[str, Any] = {}
    recurrent = {id(told): vars(told) for *_, told in places if isinstance(told, nn.RNNBase)}
    lists = [(attributes, {name: attributes[name] for name in RENEWED}) for attributes in recurrent.values()]
    try:
        for holder, key, name, _ in places:
            own.append(holder[key])
            holder[key] = tensors[name]
        yield left
    finally:
        for (holder, key, name, told), tensor in zip(places, own, strict=False):
            left[name] = holder.get(key)
            holder[key] = tensor
            if told is None or id(told) in recurrent:
                continue
            if holder is told._buffers or isinstance(tensor, nn.Parameter):
                setattr(told, key, tensor)  # which takes no other tensors
        for attributes, before in lists:
            attributes.update(before)


def _normalizes_by_layers(model: nn.Module, watch: Watch | None) -> bool:
    """Whether all batch norm is that of ``torch.nn``'s layers, and nothing is checkpointed, as far as code tells.

    That of other libraries is not looked at, and where nothing is watched no code is.
    """
    known = ("torch.nn.modules.", "torch.nn.utils.parametriz", "maml_fast.")
    parts = {type(part).__module__ for part in model.modules()}
    strangers = [name for name in parts if is_library(name) and not name.startswith(known)]
    return watch is not None and not strangers and watch.names.isdisjoint(_MODES)


# What user code names that normalizes by itself, or has a part of it run again later.
_MODES = frozenset(("batch_norm", "native_batch_norm", "checkpoint", "checkpoint_sequential", "getattr"))


def _clone(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.clone()


class _Mode(BatchNormMode):
    """The batch-norm policy, and no checkpoints.

    Non-reentrant checkpointing runs parts of ``forward`` again in the backward pass, when the module holds its own
    tensors. Here what it would drop is kept, so that nothing has to run again. What a custom ``autograd.Function``
    saves is out of reach: PyTorch then finds that the second run, which must not stop early, saved other tensors.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        if hooks is None or not hooks[0].__qualname__.startswith("_checkpoint_hook."):
            if func not in BATCH_NORMS:
                return func(*args, **(kwargs or {}))
            return super().__torch_function__(func, types, args, kwargs)
        with saved_tensors_hooks(_same, _same):
            return super().__torch_function__(func, types, args, kwargs)


def _same(tensor: Tensor) -> Tensor:
    return tensor


class Place(NamedTuple):
    """Where a module keeps a tensor: in one of its dictionaries, under a key."""

    holder: dict[str, Any]
    key: str
    name: str  # the first one that the model lists the tensor by: tied ones have several places
    told: nn.Module | None  # that keeps account of what it holds, as recurrent layers do by a list of their weights


def places_of(model: nn.Module) -> list[Place]:
    """All places of a model's parameters and buffers."""
    first_names: dict[Tensor, str] = {}
    found = []
    for prefix, part in model.named_modules():
        told = None if type(part).__setattr__ is nn.Module.__setattr__ else part
        for holder in (part._parameters, part._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    name = first_names.setdefault(tensor, f"{prefix}.{key}" if prefix else key)
                    found.append(Place(holder, key, name, told))
    return found


def counters_of(model: nn.Module) -> list[Place]:
    """Where batch norms count the batches of their running statistics."""
    norms = ((name, part._buffers) for name, part in model.named_modules() if isinstance(part, _BatchNorm))
    found = ((f"{name}.{_COUNTER}" if name else _COUNTER, buffers) for name, buffers in norms)
    return [Place(buffers, _COUNTER, name, None) for name, buffers in found if buffers.get(_COUNTER) is not None]


_COUNTER = "num_batches_tracked"

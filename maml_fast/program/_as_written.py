"""Runs the user's own module as it is written, with a task's tensors in place of its own."""

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
from maml_fast.program._watch import FLAT_WEIGHTS, Watch, is_library

__all__ = ["AsWritten", "Place", "counters_of", "places_of", "swapped", "with_its_own_tensors"]

# The lock of every submodule. Models and learners that share a submodule share its lock, because it can hold the
# tensors of only one thread at a time.
_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_MAKING_LOCKS = threading.Lock()

_RUNNING = ("running_mean", "running_var")


def with_its_own_tensors(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which no other thread runs a part of the model with a task's tensors in place of its own."""
    with _MAKING_LOCKS:
        parts = list(model.modules())
        held = list(map(_LOCKS.get, parts))
        found = {id(lock): lock for lock in held if lock is not None}
        locks = [found[each] for each in sorted(found)] or [threading.RLock()]
        for part in (part for part, lock in zip(parts, held, strict=True) if lock is None):
            _LOCKS[part] = locks[0]
    return locks[0] if len(locks) == 1 else _LockGroup(locks)


class _LockGroup:
    """The locks of several models that became parts of one; always acquired in the same order, to avoid deadlock."""

    def __init__(self, locks: Sequence[Any]) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        for lock in self._locks:
            lock.acquire()

    def __exit__(self, *_: object) -> None:
        for lock in self._locks:
            lock.release()


class AsWritten:
    """Runs a module with a task's tensors: ``as_written.begin_task()(parameters, x) -> logits``.

    ``forward`` runs on the module itself, so that its attributes, containers and hooks are the user's own. Only the
    parameters are the given ones, and the buffers are copies that the task keeps between its calls. Calls of the same
    model from other threads wait.
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
        self._needs_mode = not _only_layers_normalize(model, watch) or (norms != [] and policy != "batch")
        # Without running statistics, a batch norm normalizes by the batch's own.
        left_out = [] if self._needs_mode else [f"{name}.{key}" if name else key for name in norms for key in _RUNNING]
        self._left_out = frozenset(left_out)

    def begin_task(self, buffers: Mapping[str, Tensor | None] | None = None) -> partial[Tensor]:
        """Return one task's function ``(parameters, x)`` from all parameters [...] and x [N, ...] to logits [N, ...].

        The task starts from copies of ``buffers``, or of the module's own buffers if there are none.
        """
        if buffers is None:
            with self._lock:
                buffers = {name: holder[key] for holder, key, name, _ in reversed(self._buffers)}
            buffers.update(dict.fromkeys(self._left_out.intersection(buffers)))
        return partial(self._run, {name: _clone(buffer) for name, buffer in buffers.items()})

    def _run(self, buffers: dict[str, Tensor | None], parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        with self._lock, swapped(self._places, {**parameters, **buffers}) as final:
            logits = self._call(x)
        buffers.update((name, final.get(name, buffer)) for name, buffer in buffers.items())
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
    """Put tensors into a model inside this context; on exit, the yielded dictionary holds the tensors it ended with."""
    own: list[Any] = []
    final: dict[str, Any] = {}
    recurrent = {id(owner): vars(owner) for *_, owner in places if isinstance(owner, nn.RNNBase)}
    lists = [(attributes, {name: attributes[name] for name in FLAT_WEIGHTS}) for attributes in recurrent.values()]
    try:
        for holder, key, name, _ in places:
            own.append(holder[key])
            holder[key] = tensors[name]
        yield final
    finally:
        for (holder, key, name, owner), tensor in zip(places, own, strict=False):
            final[name] = holder.get(key)
            holder[key] = tensor
            if owner is None or id(owner) in recurrent:
                continue
            if holder is owner._buffers or isinstance(tensor, nn.Parameter):
                setattr(owner, key, tensor)  # raises for any other value of a parameter
        for attributes, before in lists:
            attributes.update(before)


def _only_layers_normalize(model: nn.Module, watch: Watch | None) -> bool:
    """Whether the user's code shows that only layers of ``torch.nn`` do batch norm, and that nothing is checkpointed.

    ``False`` if the model contains layers of other libraries, whose code is not inspected, or if there is no watch.
    """
    known = ("torch.nn.modules.", "torch.nn.utils.parametriz", "maml_fast.models.", "maml_fast.nn", "maml_fast.fusion.")
    parts = {type(part).__module__ for part in model.modules()}
    unknown = [name for name in parts if is_library(name) and not name.startswith(known)]
    return watch is not None and not unknown and watch.names.isdisjoint(_MODE_TRIGGERS)


# Names in user code that may call batch norm as a function, or checkpoint a part.
_MODE_TRIGGERS = frozenset(("batch_norm", "native_batch_norm", "checkpoint", "checkpoint_sequential", "getattr"))


def _clone(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.clone()


class _Mode(BatchNormMode):
    """The batch-norm policy, with checkpointing disabled.

    Non-reentrant checkpointing runs parts of ``forward`` again in the backward pass, when the module holds its own
    tensors. This mode keeps the tensors that a checkpoint would drop, so that nothing has to run again. It can't keep
    the tensors that a custom ``autograd.Function`` saves. PyTorch then raises, because the second run saves other
    tensors; for this check, the second run must not stop early.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        if hooks is None or not hooks[0].__qualname__.startswith("_checkpoint_hook."):
            if func not in BATCH_NORMS:
                return func(*args, **(kwargs or {}))
            return super().__torch_function__(func, types, args, kwargs)
        with saved_tensors_hooks(_identity, _identity):
            return super().__torch_function__(func, types, args, kwargs)


def _identity(tensor: Tensor) -> Tensor:
    return tensor


class Place(NamedTuple):
    """Where a module keeps a tensor: in one of its dictionaries, under a key."""

    holder: dict[str, Any]
    key: str
    name: str  # the first name that the model lists the tensor under; a tied tensor has several places
    owner: nn.Module | None  # the module, if its __setattr__ tracks its tensors, as that of recurrent layers does


def places_of(model: nn.Module) -> list[Place]:
    """All places of a model's parameters and buffers, those of tied tensors included."""
    first_names: dict[Tensor, str] = {}
    found = []
    for prefix, part in model.named_modules():
        owner = None if type(part).__setattr__ is nn.Module.__setattr__ else part
        for holder in (part._parameters, part._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    name = first_names.setdefault(tensor, f"{prefix}.{key}" if prefix else key)
                    found.append(Place(holder, key, name, owner))
    return found


def counters_of(model: nn.Module) -> list[Place]:
    """The places of ``num_batches_tracked`` of all batch norms."""
    norms = ((name, part._buffers) for name, part in model.named_modules() if isinstance(part, _BatchNorm))
    found = ((f"{name}.{_COUNTER}" if name else _COUNTER, buffers) for name, buffers in norms)
    return [Place(buffers, _COUNTER, name, None) for name, buffers in found if buffers.get(_COUNTER) is not None]


_COUNTER = "num_batches_tracked"

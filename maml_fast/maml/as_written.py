"""The user's own module, run as it is written, with a task's tensors in the place of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import set_checkpoint_early_stop

from maml_fast.maml.batch_norm import BatchNormMode, BatchNormPolicy

__all__ = ["AsWritten", "with_its_own_tensors"]

# By model, whichever learners share it: it holds the tensors of one thread at a time.
_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def with_its_own_tensors(model: nn.Module) -> Any:
    """A context, in which no other thread runs the model with a task's tensors in the place of its own."""
    return _LOCKS.setdefault(model, threading.RLock())


class AsWritten:
    """One task's calls of a module: ``as_written(parameters, x) -> logits``.

    Whatever else ``forward`` does, it does to the module itself: attributes, containers and hooks are the user's own.
    Only the parameters are those given, and the buffers are copies that the task keeps from call to call. Another
    thread's call of the same model waits meanwhile.
    """

    def __init__(self, model: nn.Module, policy: BatchNormPolicy) -> None:
        self._model = model
        self._policy = policy
        with with_its_own_tensors(model):
            self._places = _places(model)
            self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Logits [N, ...] of x [N, ...] by all of the module's parameters [...]."""
        held = self._holding({**self._buffers, **parameters})
        with with_its_own_tensors(self._model), held, set_checkpoint_early_stop(False), _Mode(self._policy):
            logits = self._model(x)
        if not isinstance(logits, Tensor):
            raise TypeError(f"the model must return one tensor of logits, got {type(logits).__name__}")
        return logits

    @contextmanager
    def _holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        own = [place.holder[place.key] for place in self._places]
        for place in self._places:
            place.holder[place.key] = tensors[place.name]
        try:
            yield
        finally:
            for place, tensor in zip(self._places, own, strict=True):
                if place.name in self._buffers:  # forward may have put another tensor there
                    self._buffers[place.name] = place.holder.get(place.key, tensor)
                place.holder[place.key] = tensor
                if place.part is not None:
                    setattr(place.part, place.key, tensor)


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
            return super().__torch_function__(func, types, args, kwargs)
        with saved_tensors_hooks(_same, _same):
            return super().__torch_function__(func, types, args, kwargs)


def _same(tensor: Tensor) -> Tensor:
    return tensor


class _Place(NamedTuple):
    """Where a module keeps a tensor: in one of its dictionaries, under a key."""

    holder: dict[str, Any]
    key: str
    name: str  # the first one that the model lists the tensor by: tied ones have several places
    part: nn.Module | None  # if it has to be told what it holds: recurrent layers also keep a list of their weights


def _places(model: nn.Module) -> list[_Place]:
    first_names: dict[Tensor, str] = {}
    found = []
    for prefix, part in model.named_modules():
        told = None if type(part).__setattr__ is nn.Module.__setattr__ else part
        for holder in (part._parameters, part._buffers):
            for key, tensor in holder.items():
                if tensor is not None:
                    name = first_names.setdefault(tensor, f"{prefix}.{key}" if prefix else key)
                    found.append(_Place(holder, key, name, told))
    return found

"""Global state around a recording: PyTorch's modes before it, and what it must restore afterwards."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maml_fast.program._tape import RecordingError
from maml_fast.program._watch import is_library

__all__ = ["check_hooks", "fresh_state", "preserving_rng_state", "refusing_grad_mode_queries", "remove_references"]


def check_hooks(model: nn.Module) -> None:
    """Raise RecordingError if anything other than ``forward`` would run: global or backward hooks, or compiled code."""
    if torch.nn.modules.module._has_any_global_hook():
        raise RecordingError("hooks are registered for all modules")
    for name, part in model.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise RecordingError(f"{name or 'the model'} has backward hooks")
        if isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod"):
            raise RecordingError(f"{name or 'the model'} is a {type(part).__name__}, which runs compiled code")


@contextmanager
def fresh_state() -> Iterator[None]:
    """Enter PyTorch's default state: gradients on; inference mode, autocast and transforms of torch.func off.

    Hooks on saved tensors are off as well, because a checkpoint around the caller counts the tensors that it sees.
    """
    with ExitStack() as stack:
        stack.enter_context(torch._C._DisableFuncTorch())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_without_saved_tensors_hooks())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def _without_saved_tensors_hooks() -> Iterator[None]:
    autograd: Any = torch._C._autograd
    hooks = []
    while (top := autograd._top_saved_tensors_default_hooks(True)) is not None:
        hooks.append(top)
        autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pair in reversed(hooks):
            autograd._push_saved_tensors_default_hooks(*pair)


@contextmanager
def preserving_rng_state(device: torch.device) -> Iterator[list[str]]:
    """Restore the states of all random number generators on exit.

    Afterwards the list names the generators outside of PyTorch that were used (``"random"``, ``"numpy"``).
    """
    drawn: list[str] = []
    of_python = random.getstate()
    of_numpy: Any = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield drawn
    if random.getstate() != of_python:
        random.setstate(of_python)
        drawn.append("random")
    now: Any = np.random.get_state()  # noqa: NPY002
    if not (np.array_equal(now[1], of_numpy[1]) and now[2:] == of_numpy[2:]):
        np.random.set_state(of_numpy)  # noqa: NPY002
        drawn.append("numpy")


@contextmanager
def refusing_grad_mode_queries() -> Iterator[None]:
    """Raise RecordingError if the user's own code calls ``torch.is_grad_enabled()`` in this thread."""
    original, here = torch.is_grad_enabled, threading.get_ident()

    def refuse() -> bool:
        if threading.get_ident() == here and not is_library(sys._getframe(1).f_globals.get("__name__")):
            raise RecordingError("forward asks whether gradients are enabled")
        return original()

    torch.is_grad_enabled = refuse
    try:
        yield
    finally:
        torch.is_grad_enabled = original


def remove_references(tensors: list[weakref.ref[Tensor]]) -> bool:
    """Remove tensors that are still alive from all lists, sets and dictionaries; return whether there were any."""
    if all(each() is None for each in tensors):
        return False
    gc.collect()
    found = False
    for each in tensors:
        tensor = each()
        if tensor is None:
            continue
        found = True
        for holder in gc.get_referrers(tensor):
            if isinstance(holder, dict):
                for name in [name for name, value in holder.items() if value is tensor]:
                    del holder[name]
            elif isinstance(holder, (list, deque)):
                kept = [value for value in holder if value is not tensor]
                holder.clear()
                holder.extend(kept)
            elif isinstance(holder, set):
                holder.discard(tensor)
    return found

"""What is around a recording: PyTorch's state before it, and what it must leave as it was."""

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

from maml_fast.program._tape import DoubtError
from maml_fast.program._watch import is_library

__all__ = ["check_hooks", "fresh_state", "noticing_questions", "remove", "unchanged_randomness"]


def check_hooks(model: nn.Module) -> None:
    """Raise DoubtError where more runs than ``forward``."""
    if torch.nn.modules.module._has_any_global_hook():
        raise DoubtError("hooks are registered for all modules")
    for name, part in model.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise DoubtError(f"{name or 'the model'} has backward hooks")
        if isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod"):
            raise DoubtError(f"{name or 'the model'} is a {type(part).__name__}, which runs compiled code")


@contextmanager
def fresh_state() -> Iterator[None]:
    """PyTorch as it is where nobody has changed it: gradients on, no inference mode, no autocast, no torch.func.

    Hooks on saved tensors are off as well: a checkpoint around the caller counts the tensors that it sees.
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
def unchanged_randomness(device: torch.device) -> Iterator[list[str]]:
    """Put the states of random numbers back; the list then names the generators that were not PyTorch's."""
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
def noticing_questions() -> Iterator[None]:
    """Raise DoubtError where the user's own code asks whether gradients are on, in this thread."""
    answer, here = torch.is_grad_enabled, threading.get_ident()

    def asked() -> bool:
        if threading.get_ident() == here and not is_library(sys._getframe(1).f_globals.get("__name__")):
            raise DoubtError("forward asks whether gradients are on")
        return answer()

    torch.is_grad_enabled = asked
    try:
        yield
    finally:
        torch.is_grad_enabled = answer


def remove(known: list[weakref.ref[Tensor]]) -> bool:
    """Take tensors that somebody still holds out of all lists, sets and dictionaries; return whether there are any."""
    if all(each() is None for each in known):
        return False
    gc.collect()
    found = False
    for each in known:
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

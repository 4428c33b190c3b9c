"""Runs a single module: through its recorded program if that has conv blocks, else as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from maml_fast.program import (
    BatchNormMode,
    FusionPolicy,
    FusionReport,
    Place,
    Program,
    Programs,
    counters_of,
    places_of,
    swapped,
    with_its_own_tensors,
)

__all__ = ["Runner", "is_being_recorded"]


def is_being_recorded() -> bool:
    """Return whether this is part of a larger model that is being recorded, or runs under its own policy."""
    return any(isinstance(mode, BatchNormMode) for mode in _get_current_function_mode_stack())


class Runner:
    """Calls a model under a batch-norm policy: ``runner(model, args, kwargs)``.

    It also calls twins of the model: modules that differ from it only in their tensors and training modes.

    Attributes:
        report: what was fused in the last call, and what was not and why; empty before the first call.
    """

    report: FusionReport

    def __init__(self, model: nn.Module, policy: FusionPolicy) -> None:
        self._model = model
        self._policy = policy
        self._programs = Programs(model, policy, updates=True)
        self.report = FusionReport(policy)

    def __call__(self, twin: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return ``twin(*args, **kwargs)`` under the policy, and update the report."""
        if is_being_recorded():
            return twin(*args, **kwargs)
        if torch._C._len_torch_dispatch_stack() > 0 or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._as_written(twin, args, kwargs)
        with with_its_own_tensors(twin):
            places = places_of(twin)
            tensors = {place.name: place.holder[place.key] for place in places}
            program = self._program(twin, places, args, kwargs)
        if isinstance(program, str):
            self.report = FusionReport(self._policy, left=(f"forward: {program}",))
            return self._as_written(twin, args, kwargs)
        self.report = FusionReport(self._policy, program.fused, program.convolutions_left)
        return _run(program, tensors, args) if program.fused else self._as_written(twin, args, kwargs)

    def _program(
        self, twin: nn.Module, places: Sequence[Place], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Program | str:
        if kwargs or not args or not all(map(_is_plain, args)):
            return "called with arguments other than ordinary positional tensors"
        parts, others = list(self._model.modules()), list(twin.modules())
        if len(parts) != len(others):
            return "a copy of the model has a layer twice that the model has once, under two names"
        with with_its_own_tensors(self._model), _in_modes_of(others, parts):
            return self._programs.of(*(x[None] for x in args), places=places)

    def _as_written(self, twin: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        with with_its_own_tensors(twin), ExitStack() as stack:
            if self._policy != "as_written":
                counters = counters_of(twin)
                others = {place.name: place.holder[place.key].clone() for place in counters}
                stack.enter_context(swapped(counters, others))
                stack.enter_context(BatchNormMode(self._policy))
            return twin(*args, **kwargs)


@contextmanager
def _in_modes_of(others: Sequence[nn.Module], parts: Sequence[nn.Module]) -> Iterator[None]:
    """Give the training modes of ``others`` to ``parts``, one by one, for a while."""
    pairs = zip(others, parts, strict=True)
    changed = [(part, other.training, part.training) for other, part in pairs if other.training != part.training]
    for part, mode, _ in changed:
        part.training = mode
    try:
        yield
    finally:
        for part, _, own in changed:
            part.training = own


def _is_plain(argument: Any) -> bool:
    """Whether an argument is an ordinary strided tensor, not a subclass other than ``Parameter``."""
    return type(argument) in (Tensor, nn.Parameter) and argument.layout is torch.strided and not argument.is_nested


def _run(program: Program, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """Run a program on a single task, and write to the module's buffers."""
    left: dict[str, Tensor] = {}
    output = program({}, tensors, *(x[None] for x in inputs), left=left).squeeze(0)
    with torch.no_grad():
        for name, value in left.items():
            # Like F.batch_norm, write to running statistics without increasing their version counter: an autograd graph
            # may hold them, but never reads them.
            buffer = tensors[name].data if name in program.unversioned else tensors[name]
            buffer.copy_(value.squeeze(0))
    return output.contiguous()  # native kernels return channels last, of which callers could not take every view

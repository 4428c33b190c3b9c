"""The programs of a model: recorded when first needed, compared with the model itself, kept while it is the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maml_fast.program.as_written import with_its_own_tensors
from maml_fast.program.batch_norm import BatchNormPolicy
from maml_fast.program.program import Program
from maml_fast.program.recording import DoubtError, fresh_state, outcome, record
from maml_fast.program.watch import UnwatchableError, Watch

__all__ = ["Programs"]

MOST_STATES = 32  # of a model's Python state; a model that has more runs as it is written
KEPT_STATES = 8
CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}  # relative differences; other types are rounder


class _State(NamedTuple):
    """A model while its Python state is one, with what runs it by the shapes of x."""

    watch: Watch
    programs: dict[Hashable, Program | str]


class Programs:
    """What runs a model for all tasks at once, by the kind of its input and the state that the model is in."""

    def __init__(self, model: nn.Module, policy: BatchNormPolicy) -> None:
        self._model = model
        self._policy = policy
        self._states: list[_State] = []  # the last used first
        self._seen = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_states": [], "_seen": 0}

    def of(self, x: Tensor) -> Program | str:
        """The program for x [T, N, ...], or why the model runs as it is written."""
        if torch._C._are_functorch_transforms_active():
            return "a transform of torch.func is active"
        state = self._state()
        if isinstance(state, str):
            return state
        key = (x.shape[1:], x.dtype, x.device.type)
        if key not in state.programs:
            with with_its_own_tensors(self._model):
                state.programs[key] = self._made(x[0].detach(), state.watch)
        return state.programs[key]

    def _state(self) -> _State | str:
        for place, state in enumerate(self._states):
            if state.watch.holds():
                self._states.insert(0, self._states.pop(place))
                return state
        if self._seen == MOST_STATES:
            return f"what it holds has changed {MOST_STATES} times"
        self._seen += 1
        try:
            state = _State(Watch(self._model), {})
        except UnwatchableError as error:
            return str(error)
        self._states = [state, *self._states[: KEPT_STATES - 1]]
        return state

    def _made(self, x: Tensor, watch: Watch) -> Program | str:
        parameters = {name: _leaf(each) for name, each in self._model.named_parameters()}
        try:
            recording, wanted = record(self._model, self._policy, parameters, x, watch)
            program = Program(recording)
        except DoubtError as doubt:
            return str(doubt)
        shared = {**dict(self._model.named_buffers()), **parameters}
        try:
            with fresh_state(), torch.random.fork_rng([x.device] if x.is_cuda else []):
                found = outcome(program({}, shared, x[None]).squeeze(0), parameters)
        except RuntimeError as error:
            return f"its recording fails: {error}"
        for what, a, b in zip(wanted._fields, wanted, found, strict=True):
            if not x.is_meta and not _are_close(a, b):
                return f"its recording gives another {what} than the model itself"
        return program


def _leaf(parameter: Tensor) -> Tensor:
    return parameter.detach().requires_grad_(parameter.is_floating_point())


def _are_close(a: Tensor, b: Tensor) -> bool:
    """By their norms: where values are within rounding of each other, maxima and ReLUs may choose differently."""
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = (each.nan_to_num(0.0, 0.0, 0.0) for each in (a, b))
    tolerance = CLOSE.get(a.dtype, 3e-2)
    return bool((a - b).norm() <= tolerance * a.norm() + torch.finfo(a.dtype).tiny)

"""The programs of a model: recorded when first needed, compared with the model itself, kept while it is the same."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maml_fast.program._as_written import Place, counters_of, places_of, with_its_own_tensors
from maml_fast.program._program import Program
from maml_fast.program._recording import DRAWS, Held, outcome, record
from maml_fast.program._report import FusionPolicy
from maml_fast.program._surroundings import fresh_state
from maml_fast.program._tape import DoubtError
from maml_fast.program._watch import UnwatchableError, Watch

__all__ = ["NoForm", "Programs"]

MOST_STATES = 32  # of a model's Python state; a model that has more runs as it is written
KEPT_STATES = 8
MOST_KINDS = 64  # of inputs of a model that is called by itself: each costs a recording
TRIES = 4
CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}  # relative differences; other types are rounder


class NoForm(str):
    """Why a recording can't run for all tasks at once; but it is true: ``forward`` uses no tensors but the model's."""


class _State(NamedTuple):
    """A model while its Python state is one, with what runs it by the kind of its inputs."""

    watch: Watch
    programs: dict[Hashable, Program | str]


class Programs:
    """What runs a model for all tasks at once, by the kind of its inputs and the state that the model is in.

    With ``updates`` a program also says what buffers hold afterwards: all that ``forward`` writes to, but for running
    statistics under the policies that keep them as they are.
    """

    def __init__(self, model: nn.Module, policy: FusionPolicy, *, updates: bool = False) -> None:
        self._model = model
        self._policy = policy
        self._updates = updates
        self._states: list[_State] = []  # the last used first
        self._seen = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_states": [], "_seen": 0}

    def watch(self) -> Watch | None:
        """What the model is now, and reads; ``None`` if that can't be told."""
        state = self._state()
        return None if isinstance(state, str) else state.watch

    def of_each(self, inputs: Sequence[Tensor]) -> list[Program | str]:
        """The programs for several kinds of a single input [T, N, ...]; nothing may change the model between them."""
        state = self._state()
        return [self._of(state, (x,)) for x in inputs]

    def of(self, *inputs: Tensor, places: Sequence[Place] | None = None) -> Program | str:
        """The program for inputs [T, N, ...], or why the model runs as it is written.

        ``places`` hold the tensors of a twin of the model, by which the program is recorded if it must be. If they are
        given, the program is for tensors like these.
        """
        return self._of(self._state(), inputs, places)

    def _of(
        self, state: _State | str, inputs: Sequence[Tensor], places: Sequence[Place] | None = None
    ) -> Program | str:
        if isinstance(state, str):
            return state
        key: Hashable = tuple((x.shape[1:], x.dtype, x.device.type) for x in inputs)
        if places is not None:
            tensors = [(place.name, place.holder[place.key]) for place in places]
            key = key, tuple((name, each.shape, each.dtype, each.device.type) for name, each in tensors)
            if key not in state.programs and len(state.programs) == MOST_KINDS:
                return f"it has been called with {MOST_KINDS} kinds of inputs"
        if key not in state.programs:
            with with_its_own_tensors(self._model):
                state.programs[key] = self._made([x[0].detach() for x in inputs], state.watch, places)
        return state.programs[key]

    def _state(self) -> _State | str:
        if torch._C._are_functorch_transforms_active():
            return "a transform of torch.func is active"
        states = self._states
        for state in states:
            if state.watch.holds():
                if state is not states[0]:
                    self._keep(state)
                return state
        if self._seen == MOST_STATES:
            return f"what it holds has changed {MOST_STATES} times"
        self._seen += 1
        try:
            state = _State(Watch(self._model), {})
        except UnwatchableError as error:
            return str(error)
        self._keep(state)
        return state

    def _keep(self, state: _State) -> None:
        """A new list: other threads may be reading the one before."""
        self._states = [state, *(other for other in self._states if other is not state)][:KEPT_STATES]

    def _made(self, inputs: Sequence[Tensor], watch: Watch, places: Sequence[Place] | None) -> Program | str:
        own = places_of(self._model)
        places = own if places is None else places
        if [place.name for place in own] != [place.name for place in places]:
            return "other tensors are tied than in the model"
        with torch.inference_mode(False):
            held, inputs = self._held(places), [_known_to_autograd(x) for x in inputs]
        for attempt in range(TRIES):
            found = self._compared(inputs, watch, held)
            if found == DRAWS and threading.active_count() > 1:
                continue  # it may have been another thread
            if isinstance(found, Program) or not found.startswith(_UNLIKE):
                break
            # A maximum or a ReLU may have been within rounding of choosing otherwise: it will not be for others.
            held = Held({name: _nudged(each, attempt) for name, each in held.parameters.items()}, held.buffers)
        return found

    def _compared(self, inputs: Sequence[Tensor], watch: Watch, held: Held) -> Program | str:
        x = inputs[0]
        try:
            recording, wanted = record(self._model, self._policy, held, inputs, watch, self._kept(held))
        except DoubtError as doubt:
            return str(doubt)
        try:
            program = Program(recording)
        except DoubtError as doubt:
            return NoForm(doubt)
        shared = {**held.buffers, **held.parameters}
        left: dict[str, Tensor] = {}
        try:
            with fresh_state(), torch.random.fork_rng([x.device] if x.is_cuda else []):
                logits = program({}, shared, *(each[None] for each in inputs), left=left)
                found = outcome(logits.squeeze(0), held.parameters, left.values())
        except RuntimeError as error:
            return f"its recording fails: {error}"
        for what, a, b in zip(wanted._fields, wanted, found, strict=True):
            if not x.is_meta and not _are_close(a, b):
                return f"{_UNLIKE} {what} than the model itself"
        return program

    def _held(self, places: Sequence[Place]) -> Held:
        tensors = {place.name: _known_to_autograd(place.holder[place.key]) for place in places}
        names = {name for name, _ in self._model.named_parameters()}
        parameters = {name: _leaf(each) for name, each in tensors.items() if name in names}
        return Held(parameters, {name: each for name, each in tensors.items() if name not in names})

    def _kept(self, held: Held) -> set[str]:
        """Names of the buffers that a program says something of."""
        if not self._updates:
            return set()
        counters = [] if self._policy == "as_written" else counters_of(self._model)
        return set(held.buffers).difference(place.name for place in counters)


_UNLIKE = "its recording gives other"


def _nudged(leaf: Tensor, attempt: int) -> Tensor:
    """Up to a per cent larger or smaller."""
    if not leaf.requires_grad:
        return leaf
    by = torch.arange(attempt, attempt + leaf.numel(), device=leaf.device).cos().view(leaf.shape)
    return _leaf(leaf * (1 + 0.01 * by.to(leaf.dtype)))


def _known_to_autograd(tensor: Tensor) -> Tensor:
    """It, or a copy of one that was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _leaf(parameter: Tensor) -> Tensor:
    return parameter.detach().requires_grad_(parameter.is_floating_point())


def _are_close(a: Tensor, b: Tensor) -> bool:
    """By their norms: where values are within rounding of each other, maxima and ReLUs may choose differently."""
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = (each.nan_to_num(0.0, 0.0, 0.0) for each in (a, b))
    tolerance = CLOSE.get(a.dtype, 3e-2)
    return bool((a - b).norm() <= tolerance * a.norm() + torch.finfo(a.dtype).tiny)

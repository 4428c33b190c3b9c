"""Keeps a model's programs by its Python state: records them on demand and checks them against the model."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maml_fast.program._agreement import difference, nudged
from maml_fast.program._as_written import Place, counters_of, places_of, with_its_own_tensors
from maml_fast.program._program import Program
from maml_fast.program._recording import DRAWS, ModelTensors, Outcome, Recording, outcome, record
from maml_fast.program._report import FusionPolicy
from maml_fast.program._surroundings import fresh_state
from maml_fast.program._tape import RecordingError
from maml_fast.program._watch import UnwatchableError, Watch

__all__ = ["NoForm", "Programs"]

MAX_STATES = 32  # after this many changes of its Python state, a model runs as it is written
MAX_KEPT_STATES = 8
MAX_KINDS = 64  # kinds of inputs of one fused model; each costs a recording
MAX_ATTEMPTS = 4
NUDGE = 1e-2  # between attempts


class NoForm(str):
    """Why a recording can't run for all tasks at once.

    The recording itself is valid, so ``forward`` uses no tensors other than its inputs and the model's.
    """


class _State(NamedTuple):
    """One Python state of a model, with its programs (or the reason why there is none) by kind of inputs."""

    watch: Watch
    programs: dict[Hashable, Program | str]


class Programs:
    """A model's programs, by the model's Python state and the kind (shape, dtype, device) of its inputs.

    With ``updates``, programs also compute the new values of the buffers that ``forward`` writes to. Running statistics
    and their batch counters are among these only under the policy ``"as_written"``.
    """

    def __init__(self, model: nn.Module, policy: FusionPolicy, *, updates: bool = False) -> None:
        self._model = model
        self._policy = policy
        self._updates = updates
        self._states: list[_State] = []  # most recently used first
        self._seen = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_states": [], "_seen": 0}

    def watch(self) -> Watch | None:
        """The watch of the model's current state; ``None`` if the state can't be watched."""
        state = self._state()
        return None if isinstance(state, str) else state.watch

    def of_each(self, inputs: Sequence[Tensor]) -> list[Program | str]:
        """One program for each of these single inputs [T, N, ...]. Nothing may change the model during the call."""
        state = self._state()
        return [self._find(state, (x,)) for x in inputs]

    def of(self, *inputs: Tensor, places: Sequence[Place] | None = None) -> Program | str:
        """The program for inputs [T, N, ...], or why the model runs as it is written.

        Args:
            inputs: one tensor per input of the model.
            places: the places of a twin of the model (same structure, its own tensors). A new program is recorded with
                the twin's tensors, and is used only for tensors of the same shapes, dtypes and devices.
        """
        return self._find(self._state(), inputs, places)

    def _find(
        self, state: _State | str, inputs: Sequence[Tensor], places: Sequence[Place] | None = None
    ) -> Program | str:
        if isinstance(state, str):
            return state
        key: Hashable = tuple((x.shape[1:], x.dtype, x.device.type) for x in inputs)
        if places is not None:
            tensors = [(place.name, place.holder[place.key]) for place in places]
            key = key, tuple((name, each.shape, each.dtype, each.device.type) for name, each in tensors)
            if key not in state.programs and len(state.programs) == MAX_KINDS:
                return f"it has been called with {MAX_KINDS} kinds of inputs"
        if key not in state.programs:
            with with_its_own_tensors(self._model):
                state.programs[key] = self._find_program([x[0].detach() for x in inputs], state.watch, places)
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
        if self._seen == MAX_STATES:
            return f"its Python state has changed {MAX_STATES} times"
        self._seen += 1
        try:
            state = _State(Watch(self._model), {})
        except UnwatchableError as error:
            return str(error)
        self._keep(state)
        return state

    def _keep(self, state: _State) -> None:
        # A new list, because other threads may be reading the old one.
        self._states = [state, *(other for other in self._states if other is not state)][:MAX_KEPT_STATES]

    def _find_program(self, inputs: Sequence[Tensor], watch: Watch, places: Sequence[Place] | None) -> Program | str:
        own = places_of(self._model)
        places = own if places is None else places
        if [place.name for place in own] != [place.name for place in places]:
            return "its parameters are tied differently than in the model"
        with torch.inference_mode(False):
            held, inputs = self._model_tensors(places), [_outside_inference_mode(x) for x in inputs]
        for attempt in range(MAX_ATTEMPTS):
            found = self._record_and_compare(inputs, watch, held)
            if found == DRAWS and threading.active_count() > 1:
                continue  # another thread may have drawn them
            if isinstance(found, Program) or not found.startswith(_DIFFERS):
                break
            # Rounding may have flipped a maximum or a ReLU. Slightly different parameters avoid the tie.
            parameters = {name: nudged(each, attempt, NUDGE) for name, each in held.parameters.items()}
            held = ModelTensors(parameters, held.buffers)
        return found

    def _record_and_compare(self, inputs: Sequence[Tensor], watch: Watch, held: ModelTensors) -> Program | str:
        x, kept = inputs[0], self._updated_buffers(held)

        def own_outcome(parameters: dict[str, Tensor]) -> tuple[Recording, Outcome]:
            return record(self._model, self._policy, ModelTensors(parameters, held.buffers), inputs, watch, kept)

        try:
            recording, expected = own_outcome(held.parameters)
        except RecordingError as error:
            return str(error)
        try:
            program = Program(recording)
        except RecordingError as error:
            return NoForm(error)
        shared = {**held.buffers, **held.parameters}
        left: dict[str, Tensor] = {}
        try:
            with fresh_state(), torch.random.fork_rng([x.device] if x.is_cuda else []):
                logits = program({}, shared, *(each[None] for each in inputs), left=left)
                found = outcome(logits.squeeze(0), held.parameters, left.values())
        except RuntimeError as error:
            return f"its recording fails: {error}"
        if x.is_meta:
            return program
        try:
            what = difference(expected, found, held.parameters, lambda parameters: own_outcome(parameters)[1])
        except RecordingError as error:
            return str(error)
        return program if what is None else f"{_DIFFERS} {what} than the model itself"

    def _model_tensors(self, places: Sequence[Place]) -> ModelTensors:
        tensors = {place.name: _outside_inference_mode(place.holder[place.key]) for place in places}
        names = {name for name, _ in self._model.named_parameters()}
        parameters = {name: _leaf(each) for name, each in tensors.items() if name in names}
        return ModelTensors(parameters, {name: each for name, each in tensors.items() if name not in names})

    def _updated_buffers(self, held: ModelTensors) -> set[str]:
        """Names of the buffers whose new values a program returns."""
        if not self._updates:
            return set()
        counters = [] if self._policy == "as_written" else counters_of(self._model)
        return set(held.buffers).difference(place.name for place in counters)


_DIFFERS = "its recording gives different"


def _outside_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy if it was created in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _leaf(parameter: Tensor) -> Tensor:
    return parameter.detach().requires_grad_(parameter.is_floating_point())

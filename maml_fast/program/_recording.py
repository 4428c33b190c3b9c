"""Records a model's ``forward`` on one task as a list of operations.

The user's own module runs once, on the tensors of a real task. Its calls are recorded as the ATen operations that they
dispatch to, so the spelling of a model does not matter: functions, methods, modules, checkpoints and parametrizations
leave the same record. If a record would miss something that ``forward`` does, recording raises a
:class:`RecordingError`, and the model runs as it is written.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import set_multithreading_enabled

from maml_fast.program._as_written import places_of, swapped
from maml_fast.program._operations import Call, Value
from maml_fast.program._report import FusionPolicy
from maml_fast.program._surroundings import (
    check_hooks,
    fresh_state,
    preserving_rng_state,
    refusing_grad_mode_queries,
    remove_references,
)
from maml_fast.program._tape import Functions, Operations, RecordingError, Tape
from maml_fast.program._watch import Watch

__all__ = ["DRAWS", "ModelTensors", "Outcome", "Recording", "outcome", "record"]

DRAWS = "forward draws random numbers of its own"
_recording_lock = threading.RLock()  # recording changes global state, which all threads share


class Recording(NamedTuple):
    """A model's forward pass on one task.

    calls: the operations, in order.
    inputs, result: the model's inputs and output.
    updates: the value that each updated buffer holds afterwards, by name.
    unversioned: names of the updated buffers that PyTorch writes to without increasing their version counter.
    """

    calls: list[Call]
    inputs: tuple[Value, ...]
    result: Value
    updates: dict[str, Value]
    unversioned: frozenset[str]


class Outcome(NamedTuple):
    """One task's logits, the gradient of a weighted sum of them, and the updated buffers, each as a flat vector."""

    logits: Tensor
    gradient: Tensor
    buffers: Tensor


class ModelTensors(NamedTuple):
    """The tensors that a model is recorded with, by name. Parameters are leaves."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


def record(
    model: nn.Module,
    policy: FusionPolicy,
    tensors: ModelTensors,
    inputs: Sequence[Tensor],
    watch: Watch,
    kept: Collection[str],
) -> tuple[Recording, Outcome]:
    """Record ``model(*inputs)`` on one task's inputs [N, ...]; return the recording and the model's own outcome.

    Afterwards the model's Python state is what ``watch`` saw, and the random number generators of PyTorch, NumPy and
    Python are in their earlier states. Writes to buffers are recorded for the names in ``kept`` and dropped for others.
    Only one thread records at a time.

    Raises:
        RecordingError: the record would miss something that ``forward`` does.
    """
    with _recording_lock:
        return _record_and_restore(model, policy, tensors, inputs, watch, kept)


def _record_and_restore(
    model: nn.Module,
    policy: FusionPolicy,
    tensors: ModelTensors,
    inputs: Sequence[Tensor],
    watch: Watch,
    kept: Collection[str],
) -> tuple[Recording, Outcome]:
    check_hooks(model)
    with fresh_state():
        tape = Tape()
    found: tuple[Recording, Outcome] | str
    with preserving_rng_state(inputs[0].device) as drawn:
        try:
            with fresh_state(), refusing_grad_mode_queries():
                found = _record(model, policy, tensors, inputs, tape, kept)
        except RecordingError as error:
            found = str(error)
        except Exception as error:  # the user's forward may raise anything
            found = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    # After the except clauses: while an error is alive, so are the frames it came through, and their tensors.
    changed = watch.restore()
    if remove_references(tape.release()):
        raise RecordingError("forward keeps tensors outside of the model")
    if changed:
        raise RecordingError("forward changes Python state")
    if drawn:
        raise RecordingError(DRAWS)
    if isinstance(found, str):
        raise RecordingError(found)
    return found


def outcome(logits: Tensor, parameters: Mapping[str, Tensor], buffers: Collection[Tensor] = ()) -> Outcome:
    """The outcome of a forward pass whose ``parameters`` are leaves."""
    flat = logits.flatten()
    flat_buffers = torch.cat([flat.new_zeros(0), *(buffer.detach().flatten() for buffer in buffers)])
    leaves = [each for each in parameters.values() if each.requires_grad]
    if not (leaves and flat.requires_grad):
        return Outcome(flat.detach(), flat.new_zeros(1), flat_buffers)
    weights = torch.arange(flat.numel(), device=flat.device, dtype=torch.float64).cos().to(flat.dtype)
    with set_multithreading_enabled(False):
        gradients = torch.autograd.grad(flat @ weights, leaves, allow_unused=True, materialize_grads=True)
    return Outcome(flat.detach(), torch.cat([gradient.flatten() for gradient in gradients]), flat_buffers)


def _record(
    model: nn.Module,
    policy: FusionPolicy,
    tensors: ModelTensors,
    inputs: Sequence[Tensor],
    tape: Tape,
    kept: Collection[str],
) -> tuple[Recording, Outcome]:
    held = {**tensors.parameters, **{name: buffer.clone() for name, buffer in tensors.buffers.items()}}
    for name, tensor in held.items():
        tape.register(tensor, Value(tensor.shape, tensor.dtype, name))
    tape.protect(tensors.parameters.values())
    inputs = [x.detach() for x in inputs]  # distinct objects, even if an input is passed twice
    input_values = tuple(tape.register(x, Value(x.shape, x.dtype)) for x in inputs)
    tape.protect(inputs)
    with swapped(places_of(model), held) as final:
        with Functions(tape, policy), Operations(tape):
            logits = model(*inputs)
        if not isinstance(logits, Tensor):
            raise RecordingError(f"forward returns a {type(logits).__name__}")
        result = tape.value_of(logits)
        written = {name: held[name] for name in tensors.buffers if name in tape.written and name in kept}
        updates = {name: tape.value_of(buffer) for name, buffer in written.items()}
        expected = outcome(logits, tensors.parameters, written.values())
    if any(final[name] is not tensor for name, tensor in held.items()):
        raise RecordingError("forward replaces tensors of the model")
    if any(buffer.grad_fn is not None for buffer in written.values()):
        raise RecordingError("forward leaves a buffer that depends on parameters")
    calls = tape.needed_for([result, *updates.values()])
    read = {value.name for call in calls for value in call.operands}
    if not read.isdisjoint(tape.written.difference(kept)):
        raise RecordingError("forward writes to tensors of the model that it reads")
    unversioned = frozenset(name for name, buffer in written.items() if buffer._version == 0)
    return Recording(calls, input_values, result, updates, unversioned), expected

"""Recording a model's ``forward`` on one task as a list of operations.

The user's own module runs once, on the tensors of a real task. What it calls on them is taken down as the operations of
PyTorch's core that it comes to, so that a model's spelling does not matter: functions, methods, modules, checkpoints
and parametrizations leave the same record. What a record would lose is a :class:`DoubtError`, and the model then runs
as it is written.
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
    noticing_questions,
    remove,
    unchanged_randomness,
)
from maml_fast.program._tape import DoubtError, Functions, Operations, Tape
from maml_fast.program._watch import Watch

__all__ = ["DRAWS", "Held", "Outcome", "Recording", "outcome", "record"]

DRAWS = "forward draws random numbers of its own"
_one_at_a_time = threading.RLock()  # for what is around a recording belongs to all threads


class Recording(NamedTuple):
    """A model's forward pass on one task.

    calls: in their order.
    inputs, result: of the model.
    updates: what the calls leave in buffers, by name.
    unversioned: the names of those buffers that PyTorch writes to without telling autograd.
    """

    calls: list[Call]
    inputs: tuple[Value, ...]
    result: Value
    updates: dict[str, Value]
    unversioned: frozenset[str]


class Outcome(NamedTuple):
    """One task's logits, the gradient of a weighted sum of them, and the buffers that were written; all are vectors."""

    logits: Tensor
    gradient: Tensor
    buffers: Tensor


class Held(NamedTuple):
    """The tensors that a model is recorded by. Parameters are leaves."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


def record(
    model: nn.Module, policy: FusionPolicy, own: Held, inputs: Sequence[Tensor], watch: Watch, kept: Collection[str]
) -> tuple[Recording, Outcome]:
    """Record ``model(*inputs)`` of one task's inputs [N, ...], and say what came out.

    The model is left as ``watch`` has seen it, and so are PyTorch's, NumPy's and Python's random numbers. What is
    written to buffers is recorded of those that are ``kept``; to others, it is lost. Threads take turns.

    Raises:
        DoubtError: the record would not say all that ``forward`` does.
    """
    with _one_at_a_time:
        return _checked(model, policy, own, inputs, watch, kept)


def _checked(
    model: nn.Module, policy: FusionPolicy, own: Held, inputs: Sequence[Tensor], watch: Watch, kept: Collection[str]
) -> tuple[Recording, Outcome]:
    check_hooks(model)
    with fresh_state():
        tape = Tape()
    found: tuple[Recording, Outcome] | str
    with unchanged_randomness(inputs[0].device) as drawn:
        try:
            with fresh_state(), noticing_questions():
                found = _record(model, policy, own, inputs, tape, kept)
        except DoubtError as doubt:
            found = str(doubt)
        except Exception as error:  # any error of any user's forward
            found = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    # Only now, as an error keeps the frames of the calls that it came through.
    changed = watch.restore()
    if remove(tape.let_go()):
        raise DoubtError("forward keeps tensors outside of the model")
    if changed:
        raise DoubtError("forward changes what it finds outside of its tensors")
    if drawn:
        raise DoubtError(DRAWS)
    if isinstance(found, str):
        raise DoubtError(found)
    return found


def outcome(logits: Tensor, parameters: Mapping[str, Tensor], buffers: Collection[Tensor] = ()) -> Outcome:
    """What came of parameters that are leaves."""
    flat = logits.flatten()
    left = torch.cat([flat.new_zeros(0), *(buffer.detach().flatten() for buffer in buffers)])
    leaves = [each for each in parameters.values() if each.requires_grad]
    if not (leaves and flat.requires_grad):
        return Outcome(flat.detach(), flat.new_zeros(1), left)
    weights = torch.arange(flat.numel(), device=flat.device, dtype=torch.float64).cos().to(flat.dtype)
    with set_multithreading_enabled(False):
        gradients = torch.autograd.grad(flat @ weights, leaves, allow_unused=True, materialize_grads=True)
    return Outcome(flat.detach(), torch.cat([gradient.flatten() for gradient in gradients]), left)


def _record(
    model: nn.Module, policy: FusionPolicy, own: Held, inputs: Sequence[Tensor], tape: Tape, kept: Collection[str]
) -> tuple[Recording, Outcome]:
    held = {**own.parameters, **{name: buffer.clone() for name, buffer in own.buffers.items()}}
    for name, tensor in held.items():
        tape.know(tensor, Value(tensor.shape, tensor.dtype, name))
    tape.protect(own.parameters.values())
    inputs = [x.detach() for x in inputs]  # one object for each
    given = tuple(tape.know(x, Value(x.shape, x.dtype)) for x in inputs)
    tape.protect(inputs)
    with swapped(places_of(model), held) as left:
        with Functions(tape, policy), Operations(tape):
            logits = model(*inputs)
        if not isinstance(logits, Tensor):
            raise DoubtError(f"forward returns a {type(logits).__name__}")
        result = tape.value_of(logits)
        written = {name: held[name] for name in own.buffers if name in tape.written and name in kept}
        updates = {name: tape.value_of(buffer) for name, buffer in written.items()}
        came_out = outcome(logits, own.parameters, written.values())
    if any(left[name] is not tensor for name, tensor in held.items()):
        raise DoubtError("forward puts other tensors in the place of the model's")
    if any(buffer.grad_fn is not None for buffer in written.values()):
        raise DoubtError("forward leaves a buffer that depends on parameters")
    calls = tape.needed_for([result, *updates.values()])
    read = {value.name for call in calls for value in call.operands}
    if not read.isdisjoint(tape.written.difference(kept)):
        raise DoubtError("forward writes to tensors of the model that it reads")
    unversioned = frozenset(name for name, buffer in written.items() if buffer._version == 0)
    return Recording(calls, given, result, updates, unversioned), came_out

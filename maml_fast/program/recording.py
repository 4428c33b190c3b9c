"""Recording a model's ``forward`` on one task as a list of operations.

The user's own module runs once, on the tensors of a real task. What it calls on them is taken down as the operations of
PyTorch's core that it comes to, so that a model's spelling does not matter: functions, methods, modules, checkpoints
and parametrizations leave the same record. What a record would lose is a :class:`DoubtError`, and the model then runs
as it is written.
"""

from __future__ import annotations

import gc
import random
import sys
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.grad_mode import set_multithreading_enabled
from torch.utils._python_dispatch import TorchDispatchMode

from maml_fast.program.as_written import places_of, swapped
from maml_fast.program.batch_norm import BatchNormMode
from maml_fast.program.operations import Call, Value, bind, is_whole
from maml_fast.program.report import FusionPolicy
from maml_fast.program.watch import Watch, is_library

__all__ = ["DoubtError", "Outcome", "Recording", "fresh_state", "outcome", "record"]

# What asks for, or changes, what autograd or memory know of a tensor, or takes its values to Python.
_UNSEEN = frozenset(
    {
        "requires_grad_",
        "backward",
        "register_hook",
        "register_post_accumulate_grad_hook",
        "retain_grad",
        "set_",
        "data_ptr",
        "storage",
        "numpy",
        "untyped_storage",
        "tolist",
        "item",
        "share_memory_",
        "is_shared",
        "resize_",
        "is_set_to",
        "__array__",
        "__deepcopy__",
        "__reduce_ex__",
        "_set_grad_enabled",
    }
)
_SEEN = frozenset(  # attributes that do not
    {
        "shape",
        "dtype",
        "device",
        "ndim",
        "T",
        "mT",
        "H",
        "mH",
        "layout",
        "is_cuda",
        "is_cpu",
        "itemsize",
        "nbytes",
        "is_sparse",
        "is_quantized",
        "is_mkldnn",
        "is_nested",
        "is_sparse_csr",
        "is_meta",
        "real",
    }
)


class DoubtError(Exception):
    """A record would not say all that ``forward`` does; the message names what it would miss."""


class Recording(NamedTuple):
    """``calls`` in their order; ``result`` is computed by them from ``inputs`` and the model's tensors.

    So is what they leave in buffers, ``updates``. ``unversioned`` are those of them that PyTorch writes without telling
    autograd.
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
    written to buffers is recorded of those that are ``kept``; to others, it is lost.

    Raises:
        DoubtError: see there.
    """
    _check_hooks(model)
    with fresh_state():
        tape = _Tape()
    found: tuple[Recording, Outcome] | str
    with _unchanged_randomness(inputs[0].device) as drawn:
        try:
            with fresh_state(), _noticing_questions():
                found = _record(model, policy, own, inputs, tape, kept)
        except DoubtError as doubt:
            found = str(doubt)
        except Exception as error:  # any error of any user's forward
            found = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    # Only now, as an error keeps the frames of the calls that it came through.
    changed = watch.restore()
    if _remove(tape.let_go()):
        raise DoubtError("forward keeps tensors outside of the model")
    if changed:
        raise DoubtError("forward changes what it finds outside of its tensors")
    if drawn:
        raise DoubtError("forward draws random numbers of its own")
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
    model: nn.Module, policy: FusionPolicy, own: Held, inputs: Sequence[Tensor], tape: _Tape, kept: Collection[str]
) -> tuple[Recording, Outcome]:
    held = {**own.parameters, **{name: buffer.clone() for name, buffer in own.buffers.items()}}
    for name, tensor in held.items():
        tape.know(tensor, Value(tensor.shape, tensor.dtype, name))
    tape.protect(own.parameters.values())
    inputs = [x.detach() for x in inputs]  # one object for each
    given = tuple(tape.know(x, Value(x.shape, x.dtype)) for x in inputs)
    tape.protect(inputs)
    with swapped(places_of(model), held) as left:
        with _Functions(tape, policy), _Operations(tape):
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


class _Tape:
    """What was called so far. Tensors are known by their ids, and kept alive as long as these are needed."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.written: set[str] = set()  # names of the model's buffers
        self.is_paused = False
        self.autocast = _autocast()
        self._values: dict[int, Value] = {}
        self._kept: list[Tensor] = []
        self._sharing: dict[int, list[int]] = {}  # ids of tensors by their memory
        self._names: dict[int, str] = {}  # of the model's tensors, by their memory
        self._protected: set[int] = set()  # memory that is not the tape's own

    def know(self, tensor: Tensor, value: Value) -> Value:
        """Take a tensor for a value from now on."""
        if id(tensor) not in self._values:
            self._kept.append(tensor)
            self._sharing.setdefault(_memory(tensor), []).append(id(tensor))
        self._values[id(tensor)] = value
        if value.name:
            self._names[_memory(tensor)] = value.name
        return value

    def protect(self, tensors: Iterator[Tensor] | Sequence[Tensor] | Any) -> None:
        """Refuse what would write to these tensors."""
        self._protected.update(map(_memory, tensors))

    def value_of(self, tensor: Tensor) -> Value:
        """What a tensor is known as."""
        value = self._values.get(id(tensor))
        if value is None:
            raise DoubtError("forward uses a tensor that does not come from its input")
        if value is _STALE:
            raise DoubtError("forward writes to a tensor that it sees in another view")
        return value

    def begin(
        self, operation: Any, args: Any, kwargs: Any, written: Sequence[Tensor] = ()
    ) -> tuple[Any, dict[str, Any], Sequence[Tensor]]:
        """A call that is about to be made: what it comes to without writing, its arguments, what it writes to."""
        if operation in _CONSTANTS and id(args[0]) not in self._values:
            return operation, {"constant": args[0].clone()}, ()
        arguments = _mapped(self.value_of, bind(operation, args, kwargs))
        operation, overwritten = _functional(operation, args)
        written = (*written, *overwritten)
        if any(_memory(tensor) in self._protected for tensor in written):
            raise DoubtError("forward writes to its input or to parameters")
        if any(isinstance(value, torch.Generator) for value in arguments.values()):
            raise DoubtError("forward draws from a generator of its own")
        return operation, arguments, written

    def end(self, operation: Any, arguments: dict[str, Any], written: Sequence[Tensor], output: Any) -> None:
        """Note a call that was made, and know its results."""
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        if not all(each is None or isinstance(each, Tensor) for each in tensors) or _tells_values(operation):
            raise DoubtError("forward depends on the values of tensors")
        results = [Value(each.shape, each.dtype) if isinstance(each, Tensor) else None for each in tensors]
        self.calls.append(Call(operation, arguments, tuple(results)))
        for memory in map(_memory, written):
            if memory in self._names:
                self.written.add(self._names[memory])
            for other in self._sharing[memory]:
                self._values[other] = _STALE
        for tensor, value in zip(tensors, results, strict=True):
            if value is not None:
                self.know(tensor, value)

    def needed_for(self, results: Collection[Value]) -> list[Call]:
        """The calls that values depend on."""
        needed, calls = {*results}, []
        for call in reversed(self.calls):
            if any(value in needed for value in call.results):
                calls.append(call)
                needed.update(call.operands)
        return calls[::-1]

    def let_go(self) -> list[weakref.ref[Tensor]]:
        """Forget all tensors; whoever holds one of those that were made is not the tape."""
        known = [weakref.ref(tensor) for tensor in self._kept if _memory(tensor) not in self._protected]
        self._values, self._kept = {}, []
        return known


_STALE = Value(torch.Size(), torch.float32)
_CONSTANTS = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)  # torch.tensor(...)


class _Operations(TorchDispatchMode):
    """Takes down the operations of PyTorch's core."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not by a wrapper: it would import torch._dynamo, which takes longer than all else here."""
        return False

    def __init__(self, tape: _Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tape = self._tape
        if tape.is_paused:
            return func(*args, **kwargs)
        if not torch._C.is_grad_enabled():  # no_grad, or an autograd.Function, which has a backward of its own
            raise DoubtError("forward switches gradients off, or has a backward of its own")
        if _autocast() != tape.autocast:
            raise DoubtError("forward switches autocast")
        begun = tape.begin(func, args, kwargs)
        output = func(*args, **kwargs)
        tape.end(*begun, output)
        return output


class _Functions(BatchNormMode):
    """Takes down whole functions of Python, batch norm by the policy among them; refuses what can't be taken down."""

    def __init__(self, tape: _Tape, policy: FusionPolicy) -> None:
        super().__init__(policy)
        self._tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._tape.is_paused:
            return func(*args, **kwargs)
        _check_seen(func)
        return (
            self._whole(func, args, kwargs) if is_whole(func) else super().__torch_function__(func, types, args, kwargs)
        )

    def normalised(self, input: Tensor, *statistics: Tensor | None, **options: Any) -> Tensor:
        """A batch norm by the policy; its running statistics are written to in training."""
        kept = [each for each in statistics[:2] if each is not None and options["training"]]
        return self._whole(super().normalised, (input, *statistics), options, F.batch_norm, kept)

    def _whole(
        self, function: Callable[..., Any], args: Any, kwargs: Any, name: Any = None, written: Sequence[Tensor] = ()
    ) -> Any:
        """Call a function, and take it down under its own name or another, with what it writes as further results."""
        tape = self._tape
        begun = tape.begin(name or function, args, kwargs, written)
        tape.is_paused = True
        try:
            output = function(*args, **kwargs)
        finally:
            tape.is_paused = False
        tape.end(*begun, (output, *written) if written else output)
        return output


def _check_seen(function: Any) -> None:
    name = getattr(function, "__name__", "")
    if name in ("__get__", "__set__", "__delete__"):
        attribute = getattr(function.__self__, "__name__", "")
        if name != "__get__" or attribute not in _SEEN:
            raise DoubtError(f"forward asks for a tensor's .{attribute}, or sets it")
    elif name in _UNSEEN or getattr(function, "__module__", "") == "torch.autograd":
        raise DoubtError(f"forward calls {name}()")


def _check_hooks(model: nn.Module) -> None:
    if torch.nn.modules.module._has_any_global_hook():
        raise DoubtError("hooks are registered for all modules")
    for name, part in model.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            raise DoubtError(f"{name or 'the model'} has backward hooks")
        if isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod"):
            raise DoubtError(f"{name or 'the model'} is a {type(part).__name__}, which runs compiled code")


def _tells_values(operation: Any) -> bool:
    """Whether Python learns something of a tensor's values from the shape of what comes out."""
    return torch.Tag.dynamic_output_shape in getattr(operation, "tags", ())


def _functional(operation: Any, args: Any) -> tuple[Any, Sequence[Tensor]]:
    """An operation that writes to nothing, and the tensor, if any, that the one called writes its result to."""
    schema = getattr(operation, "_schema", None)
    if schema is None or not schema.is_mutable:
        return operation, ()
    first, *others = schema.arguments
    alone = first.is_write and not any(each.is_write for each in others)
    name, overload = schema.name.removeprefix("aten::"), schema.overload_name or "default"
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    out_of_place = _OUT_OF_PLACE.get(operation, getattr(packet, overload, None) if name.endswith("_") else None)
    if not alone or out_of_place is None:
        raise DoubtError(f"forward calls {name}, which writes to a tensor")
    return out_of_place, args[:1]


_OUT_OF_PLACE = {torch.ops.aten.bernoulli_.float: torch.ops.aten.bernoulli.p}


def _mapped(function: Callable[[Tensor], Value], value: Any) -> Any:
    """Values in the place of tensors, in lists and dictionaries too."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return [_mapped(function, each) for each in value]
    if isinstance(value, dict):
        return {name: _mapped(function, each) for name, each in value.items()}
    return value


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))


@contextmanager
def fresh_state() -> Iterator[None]:
    """PyTorch as it is where nobody has changed it: gradients on, no inference mode, no autocast, no torch.func.

    Nor a checkpoint around the caller, which would count the tensors that are saved.
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
def _unchanged_randomness(device: torch.device) -> Iterator[list[str]]:
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
def _noticing_questions() -> Iterator[None]:
    """Raise DoubtError where the user's own code asks whether gradients are on."""
    answer = torch.is_grad_enabled

    def asked() -> bool:
        if not is_library(sys._getframe(1).f_globals.get("__name__")):
            raise DoubtError("forward asks whether gradients are on")
        return answer()

    torch.is_grad_enabled = asked
    try:
        yield
    finally:
        torch.is_grad_enabled = answer


def _remove(known: list[weakref.ref[Tensor]]) -> bool:
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

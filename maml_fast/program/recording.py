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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.grad_mode import set_multithreading_enabled
from torch.utils._python_dispatch import TorchDispatchMode

from maml_fast.program.as_written import places_of, swapped
from maml_fast.program.batch_norm import BatchNormMode, BatchNormPolicy
from maml_fast.program.operations import Call, Value, bind, is_whole
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
    """``calls`` in their order; ``result`` is computed by them from ``input`` and the model's tensors."""

    calls: list[Call]
    input: Value
    result: Value


class Outcome(NamedTuple):
    """One task's logits, and the gradient of a weighted sum of them; both are vectors."""

    logits: Tensor
    gradient: Tensor


def record(
    model: nn.Module, policy: BatchNormPolicy, parameters: Mapping[str, Tensor], x: Tensor, watch: Watch
) -> tuple[Recording, Outcome]:
    """Record ``model(x)`` of one task's x [N, ...], by parameters that are leaves, and say what came out.

    The model is left as ``watch`` has seen it, and so are PyTorch's, NumPy's and Python's random numbers.

    Raises:
        DoubtError: see there.
    """
    _check_hooks(model)
    with fresh_state():
        tape = _Tape()
    found: tuple[Recording, Outcome] | str
    with _unchanged_randomness(x.device) as drawn:
        try:
            with fresh_state(), _noticing_questions():
                found = _record(model, policy, parameters, x, tape)
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


def outcome(logits: Tensor, parameters: Mapping[str, Tensor]) -> Outcome:
    """What came of parameters that are leaves."""
    flat = logits.flatten()
    leaves = [each for each in parameters.values() if each.requires_grad]
    if not (leaves and flat.requires_grad):
        return Outcome(flat.detach(), flat.new_zeros(1))
    weights = torch.arange(flat.numel(), device=flat.device, dtype=torch.float64).cos().to(flat.dtype)
    with set_multithreading_enabled(False):
        gradients = torch.autograd.grad(flat @ weights, leaves, allow_unused=True, materialize_grads=True)
    return Outcome(flat.detach(), torch.cat([gradient.flatten() for gradient in gradients]))


def _record(
    model: nn.Module, policy: BatchNormPolicy, parameters: Mapping[str, Tensor], x: Tensor, tape: _Tape
) -> tuple[Recording, Outcome]:
    held = {**parameters, **{name: buffer.clone() for name, buffer in model.named_buffers()}}
    for name, tensor in held.items():
        tape.know(tensor, Value(tensor.shape, tensor.dtype, name))
    tape.protect(parameters.values())
    x = x.detach()
    given = tape.know(x, Value(x.shape, x.dtype))
    tape.protect([x])
    with swapped(places_of(model), held) as left:
        with _Functions(tape, policy), _Operations(tape):
            logits = model(x)
        if not isinstance(logits, Tensor):
            raise DoubtError(f"forward returns a {type(logits).__name__}")
        result = tape.value_of(logits)
        came_out = outcome(logits, parameters)
    if any(left[name] is not tensor for name, tensor in held.items()):
        raise DoubtError("forward puts other tensors in the place of the model's")
    calls = tape.needed_for(result)
    if any(value.name in tape.written for call in calls for value in call.operands if value.name):
        raise DoubtError("forward writes to tensors of the model that it reads")
    return Recording(calls, given, result), came_out


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
        self._protected: set[int] = set()  # memory that is not the tape's own

    def know(self, tensor: Tensor, value: Value) -> Value:
        """Take a tensor for a value from now on."""
        if id(tensor) not in self._values:
            self._kept.append(tensor)
            self._sharing.setdefault(_memory(tensor), []).append(id(tensor))
        self._values[id(tensor)] = value
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

    def begin(self, operation: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any], Tensor | None]:
        """A call that is about to be made: what it comes to without writing, its arguments, what it writes to."""
        if operation in _CONSTANTS and id(args[0]) not in self._values:
            return operation, {"constant": args[0].clone()}, None
        arguments = _mapped(self.value_of, bind(operation, args, kwargs))
        operation, written = _functional(operation, args)
        if written is not None and _memory(written) in self._protected:
            raise DoubtError("forward writes to its input or to parameters")
        if any(isinstance(value, torch.Generator) for value in arguments.values()):
            raise DoubtError("forward draws from a generator of its own")
        return operation, arguments, written

    def end(self, operation: Any, arguments: dict[str, Any], written: Tensor | None, output: Any) -> None:
        """Note a call that was made, and know its results."""
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        if not all(each is None or isinstance(each, Tensor) for each in tensors) or _tells_values(operation):
            raise DoubtError("forward depends on the values of tensors")
        results = [Value(each.shape, each.dtype) if isinstance(each, Tensor) else None for each in tensors]
        self.calls.append(Call(operation, arguments, tuple(results)))
        if written is not None:
            before = self._values[id(written)]
            if before.name:
                self.written.add(before.name)
            for other in self._sharing[_memory(written)]:
                self._values[other] = _STALE
        for tensor, value in zip(tensors, results, strict=True):
            if value is not None:
                self.know(tensor, value)

    def needed_for(self, result: Value) -> list[Call]:
        """The calls that a value depends on."""
        needed, calls = {result}, []
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

    def __init__(self, tape: _Tape, policy: BatchNormPolicy) -> None:
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

    def normalised(self, *args: Any, **options: Any) -> Tensor:
        """A batch norm by the policy."""
        return self._whole(super().normalised, args, options, F.batch_norm)

    def _whole(self, function: Callable[..., Any], args: Any, kwargs: Any, name: Any = None) -> Any:
        """Call a function, and take it down under its own name or another."""
        tape = self._tape
        begun = tape.begin(name or function, args, kwargs)
        tape.is_paused = True
        try:
            output = function(*args, **kwargs)
        finally:
            tape.is_paused = False
        tape.end(*begun, output)
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


def _functional(operation: Any, args: Any) -> tuple[Any, Tensor | None]:
    """An operation that writes to nothing, and the tensor that the one called writes its result to."""
    schema = getattr(operation, "_schema", None)
    if schema is None or not schema.is_mutable:
        return operation, None
    first, *others = schema.arguments
    alone = first.is_write and not any(each.is_write for each in others)
    name, overload = schema.name.removeprefix("aten::"), schema.overload_name or "default"
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    out_of_place = _OUT_OF_PLACE.get(operation, getattr(packet, overload, None) if name.endswith("_") else None)
    if not alone or out_of_place is None:
        raise DoubtError(f"forward calls {name}, which writes to a tensor")
    return out_of_place, args[0]


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
    """PyTorch as it is where nobody has changed it: gradients on, no inference mode, no autocast, no torch.func."""
    with ExitStack() as stack:
        stack.enter_context(torch._C._DisableFuncTorch())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


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

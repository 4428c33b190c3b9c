"""The tape of a recording: the calls that a model makes on tensors, in order."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maml_fast.program._batch_norm import BatchNormMode
from maml_fast.program._operations import Call, Value, bind, is_recorded_as_one
from maml_fast.program._report import FusionPolicy

__all__ = ["Functions", "Operations", "RecordingError", "Tape"]

# fmt: off
# Functions that a record can't represent: they query or change a tensor's autograd state or memory, or move its values
# to Python.
_FORBIDDEN = frozenset({
    "requires_grad_", "backward", "register_hook", "register_post_accumulate_grad_hook", "retain_grad", "set_",
    "data_ptr", "storage", "numpy", "untyped_storage", "tolist", "item", "share_memory_", "is_shared",
    "resize_", "is_set_to", "__array__", "__deepcopy__", "__reduce_ex__", "_set_grad_enabled",
})
# Attributes that forward may read.
_ALLOWED_ATTRIBUTES = frozenset({
    "shape", "dtype", "device", "ndim", "T", "mT", "H", "mH", "layout", "is_cuda", "is_cpu", "itemsize",
    "nbytes", "is_sparse", "is_quantized", "is_mkldnn", "is_nested", "is_sparse_csr", "is_meta", "real",
})
# fmt: on


class RecordingError(Exception):
    """A record would miss something that ``forward`` does; the message names it."""


class Tape:
    """The calls so far. Tensors are identified by ``id``, and the tape keeps them alive so that ids stay unique."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.written: set[str] = set()  # names of the model's buffers
        self.is_paused = False
        self.autocast = _autocast()
        self._values: dict[int, Value] = {}
        self._kept: list[Tensor] = []
        self._sharing: dict[int, list[int]] = {}  # ids of tensors, by their memory
        self._parts: set[int] = set()  # ids of results of unsafe_split and the like, which share no elements
        self._names: dict[int, str] = {}  # names of the model's tensors, by their memory
        self._protected: set[int] = set()  # memory of inputs and parameters, which forward must not write to

    def register(self, tensor: Tensor, value: Value) -> Value:
        """Let a tensor stand for a value from now on; return the value."""
        if id(tensor) not in self._values:
            self._kept.append(tensor)
            if id(tensor) not in self._parts:
                self._sharing.setdefault(_memory(tensor), []).append(id(tensor))
        self._values[id(tensor)] = value
        if value.name:
            self._names[_memory(tensor)] = value.name
        return value

    def protect(self, tensors: Iterable[Tensor]) -> None:
        """Refuse calls that write to these tensors."""
        self._protected.update(map(_memory, tensors))

    def value_of(self, tensor: Tensor) -> Value:
        value = self._values.get(id(tensor))
        if value is None:
            raise RecordingError("forward uses a tensor that does not come from its input")
        if value is _STALE:
            raise RecordingError("forward writes to a tensor of which it also has another view")
        return value

    def begin(
        self, operation: Any, args: Any, kwargs: Any, written: Sequence[Tensor] = ()
    ) -> tuple[Any, dict[str, Any], Sequence[Tensor]]:
        """Prepare the record of a call before it is made.

        Returns:
            The functional variant of the operation, its arguments with values in place of tensors, and the tensors that
            the call writes to.
        """
        if operation in _CONSTANTS and id(args[0]) not in self._values:
            return operation, {"constant": args[0].clone()}, ()
        arguments = _map_tensors(self.value_of, bind(operation, args, kwargs))
        operation, overwritten = _functional(operation, args)
        written = (*written, *overwritten)
        if any(_memory(tensor) in self._protected for tensor in written):
            raise RecordingError("forward writes to its input or to parameters")
        if any(isinstance(value, torch.Generator) for value in arguments.values()):
            raise RecordingError("forward draws random numbers from its own generator")
        return operation, arguments, written

    def end(self, operation: Any, arguments: dict[str, Any], written: Sequence[Tensor], output: Any) -> None:
        """Record a call after it was made, and register its results."""
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        only_tensors = all(each is None or isinstance(each, Tensor) for each in tensors)
        if not only_tensors or _reveals_values(operation, arguments):
            raise RecordingError("forward depends on the values of tensors")
        results = [Value(each.shape, each.dtype) if isinstance(each, Tensor) else None for each in tensors]
        self.calls.append(Call(operation, arguments, tuple(results)))
        if getattr(operation, "__name__", "").startswith("unsafe_"):  # recurrent layers write to the parts in place
            self._parts.update(map(id, tensors))
        for tensor in written:
            memory = _memory(tensor)
            if memory in self._names:
                self.written.add(self._names[memory])
            for other in self._sharing.get(memory, ()):
                self._values[other] = _STALE
        for tensor, value in zip(tensors, results, strict=True):
            if value is not None:
                self.register(tensor, value)

    def needed_for(self, results: Collection[Value]) -> list[Call]:
        """The calls that these values depend on, in order."""
        needed, calls = {*results}, []
        for call in reversed(self.calls):
            if any(value in needed for value in call.results):
                calls.append(call)
                needed.update(call.operands)
        return calls[::-1]

    def release(self) -> list[weakref.ref[Tensor]]:
        """Drop all tensors; return weak references to those that ``forward`` made, of which none should stay alive."""
        made = [weakref.ref(tensor) for tensor in self._kept if _memory(tensor) not in self._protected]
        self._values, self._kept = {}, []
        return made


_STALE = Value(torch.Size(), torch.float32)
_CONSTANTS = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)  # torch.tensor(...)


class Operations(TorchDispatchMode):
    """Records ATen operations on a tape."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False keeps PyTorch from wrapping the mode, which would import torch._dynamo and take a second."""
        return False

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tape = self._tape
        if tape.is_paused:
            return func(*args, **kwargs)
        if not torch._C.is_grad_enabled():  # in no_grad, or in an autograd.Function with its own backward
            raise RecordingError("forward disables gradients, or has its own backward")
        if _autocast() != tape.autocast:
            raise RecordingError("forward switches autocast")
        begun = tape.begin(func, args, kwargs)
        output = func(*args, **kwargs)
        tape.end(*begun, output)
        return output


class Functions(BatchNormMode):
    """Records some Python functions as a single call, among them batch norm under the policy.

    Raises:
        RecordingError: a function or attribute can't be recorded.
    """

    def __init__(self, tape: Tape, policy: FusionPolicy) -> None:
        super().__init__(policy)
        self._tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._tape.is_paused:
            return func(*args, **kwargs)
        _check_recordable(func)
        if is_recorded_as_one(func, args, kwargs):
            return self._record_as_one(func, args, kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    def normalized(self, input: Tensor, *statistics: Tensor | None, **options: Any) -> Tensor:
        """Record a batch norm under the policy as one call that writes to its running statistics in training."""
        kept = [each for each in statistics[:2] if each is not None and options["training"]]
        return self._record_as_one(super().normalized, (input, *statistics), options, F.batch_norm, kept)

    def _record_as_one(
        self, function: Callable[..., Any], args: Any, kwargs: Any, name: Any = None, written: Sequence[Tensor] = ()
    ) -> Any:
        """Call a function and record it as one call, of ``name`` if given; tensors it writes to are further results."""
        tape = self._tape
        begun = tape.begin(name or function, args, kwargs, written)
        tape.is_paused = True
        try:
            output = function(*args, **kwargs)
        finally:
            tape.is_paused = False
        tape.end(*begun, (output, *written) if written else output)
        return output


def _check_recordable(function: Any) -> None:
    name = getattr(function, "__name__", "")
    if name in ("__get__", "__set__", "__delete__"):
        attribute = getattr(function.__self__, "__name__", "")
        if name != "__get__" or attribute not in _ALLOWED_ATTRIBUTES:
            raise RecordingError(f"forward reads or sets a tensor's .{attribute}")
    elif name in _FORBIDDEN or getattr(function, "__module__", "") == "torch.autograd":
        raise RecordingError(f"forward calls {name}()")


def _reveals_values(operation: Any, arguments: dict[str, Any]) -> bool:
    """Whether the shape of the result depends on a tensor's values, and so reveals them to Python."""
    if operation is torch.ops.aten.index.Tensor:  # with integer indices the result's shape follows from theirs
        return any(value is not None and value.dtype in _MASKS for value in arguments["indices"])
    return torch.Tag.dynamic_output_shape in getattr(operation, "tags", ())


_MASKS = (torch.bool, torch.uint8)


def _functional(operation: Any, args: Any) -> tuple[Any, Sequence[Tensor]]:
    """The functional variant of an operation, and the tensor, if any, that the called one writes its result to."""
    schema = getattr(operation, "_schema", None)
    if schema is None or not schema.is_mutable:
        return operation, ()
    first, *others = schema.arguments
    alone = first.is_write and not any(each.is_write for each in others)
    name, overload = schema.name.removeprefix("aten::"), schema.overload_name or "default"
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    out_of_place = _OUT_OF_PLACE.get(operation, getattr(packet, overload, None) if name.endswith("_") else None)
    if not alone or out_of_place is None:
        raise RecordingError(f"forward calls {name}, which writes to a tensor")
    return out_of_place, args[:1]


_OUT_OF_PLACE = {
    torch.ops.aten.bernoulli_.float: torch.ops.aten.bernoulli.p,
    torch.ops.aten.transpose_.default: torch.ops.aten.transpose.int,
}


def _map_tensors(function: Callable[[Tensor], Value], value: Any) -> Any:
    """Apply ``function`` to every tensor in nested lists, tuples and dictionaries; leave other objects unchanged."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return [_map_tensors(function, each) for each in value]
    if isinstance(value, dict):
        return {name: _map_tensors(function, each) for name, each in value.items()}
    return value


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))

"""Recording a module's ``forward`` with torch.fx, refusing what the recording would silently falsify.

Symbolic tracing runs ``forward`` once with stand-ins for tensors. What it does besides calling torch on them is frozen
into the recording or lost: an attribute set, a random number drawn, a tensor made, gradients switched off. Wherever
that can be noticed a :class:`UntraceableError` says so, and the module runs as it was written.
"""

from __future__ import annotations

import inspect
import operator
import random
from collections.abc import Callable, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.fx.proxy import Attribute, TraceError
from torch.utils._pytree import tree_leaves

from maml_fast.fusion.structure import follows_policy
from maml_fast.nn import ConvBlock

__all__ = ["UntraceableError", "has_hooks", "required_inputs", "trace"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


# What takes a tensor apart in native code without asking whether it is one: a stand-in would end the process.
_FROM_DATA = ("as_tensor", "asarray", "tensor")
_Function: Any = torch.autograd.Function
_apply = vars(_Function)["apply"]


class UntraceableError(Exception):
    """A ``forward`` that can't be recorded: ``module`` is the innermost one at fault, ``reason`` says why."""

    def __init__(self, module: nn.Module, reason: str) -> None:
        super().__init__(reason)
        self.module = module
        self.reason = reason


def trace(root: nn.Module, forward: Callable[..., Any], opaque: Set[nn.Module]) -> tuple[Graph, list[nn.Module]]:
    """Record ``forward`` of ``root``; calls of ``opaque`` modules stay calls.

    Returns:
        The graph, with one placeholder for every argument without a default (the others are taken at their defaults),
        and the modules whose own ``forward`` is recorded in it.

    Raises:
        UntraceableError: see there.
    """
    tracer = _Tracer(root, forward, opaque)
    unpatched = {name: getattr(torch, name) for name in _FROM_DATA}
    attributes = {module: dict(vars(module)) for module in root.modules()}
    randomness = _random_states()
    try:
        for name, function in unpatched.items():
            setattr(torch, name, _refusing(function, name))
        _Function.apply = classmethod(_refusing(_apply.__func__, "an autograd.Function"))
        with torch.enable_grad():  # so that torch.no_grad() within forward can be told from one around fuse()
            graph = tracer.trace(root)
    except Exception as error:  # any error of any user's forward
        raise UntraceableError(tracer.culprit or root, f"{type(error).__name__}: {_first_line(error)}") from error
    finally:
        _Function.apply = _apply
        for name, function in unpatched.items():
            setattr(torch, name, function)
        changed = _restore_attributes(attributes)
        drew = _restore_random_states(randomness)
    if changed is not None:
        module, name = changed
        raise UntraceableError(module, f"forward sets self.{name}")
    if drew:
        raise UntraceableError(root, "forward draws random numbers of its own")
    return graph, tracer.recorded


def required_inputs(forward: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that have no default and take one value each."""
    single = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(forward).parameters.values()
    return [p.name for p in parameters if p.kind in single and p.default is inspect.Parameter.empty]


def has_hooks(module: nn.Module) -> bool:
    """Return whether calling the module runs more than its ``forward``."""
    return any(getattr(module, hooks) for hooks in _HOOKS)


def _refusing(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(each, Proxy) for each in tree_leaves((args, kwargs))):
            raise TraceError(f"forward calls {name}, which can't be recorded")
        return function(*args, **kwargs)

    return refuse


class _Value(Proxy):
    """A stand-in that answers ``isinstance`` truly: inputs are tensors, what is computed from them can't be told."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        if self.node.op != "placeholder":
            raise TraceError("forward asks for the type of a computed value")
        return Tensor

    def __getattr__(self, k: str) -> Attribute:
        return _ValueAttribute(self, k)

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        return _record_function(*args, **kwargs)


class _ValueAttribute(Attribute):
    """``x.shape``, ``x.mT``, ..., or a method on its way to be called."""

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        return _record_function(*args, **kwargs)


def _record_function(*args: Any, **kwargs: Any) -> Any:
    # Proxy's own would ask isinstance(argument, cls); every stand-in is an instance of Proxy itself by its true type.
    return Proxy.__torch_function__.__func__(Proxy, *args, **kwargs)  # type: ignore[attr-defined]


def _in_place(name: str) -> Callable[[_Value, Any], Proxy]:
    def record(self: _Value, other: Any) -> Proxy:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return record


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imod", "imatmul", "iand", "ior", "ixor"):
    setattr(_Value, f"__{_name}__", _in_place(_name))  # torch.fx would record x += y as x = x + y


class _Tracer(Tracer):
    proxy_buffer_attributes = True  # a buffer is read when the graph runs, not when it is recorded

    def __init__(self, module: nn.Module, forward: Callable[..., Any], opaque: Set[nn.Module]) -> None:
        super().__init__()
        self.forward = forward
        self.opaque = opaque
        self.recorded = [module]
        self.culprit: nn.Module | None = None
        self.autocast = _autocast()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(m, ConvBlock) or follows_policy(m)
        return own or m in self.opaque or has_hooks(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if m not in (self.submodule_paths or {}):
            return forward(*args, **kwargs)  # made in forward: self.features[:3](x); its layers have names of their own
        leaf = self.is_leaf_module(m, "")
        if not leaf and m not in self.recorded:
            self.recorded.append(m)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.culprit is None and not leaf:
                self.culprit = m
            raise

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        names = required_inputs(self.forward)
        if not names:
            raise TraceError("forward takes no argument by name without a default")
        return self.forward, [self.create_proxy("placeholder", name, (), {}) for name in names]

    def proxy(self, node: Node) -> Proxy:
        return _Value(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Proxy):
            return a.node
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and not self._is_attribute(a):
            raise TraceError("forward makes a tensor that does not come from its input")
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        if not torch.is_grad_enabled():
            raise TraceError("forward switches gradients off")
        if _autocast() != self.autocast:
            raise TraceError("forward switches autocast")
        return super().create_node(*args, **kwargs)

    def _is_attribute(self, tensor: Tensor) -> bool:
        return tensor in self.tensor_attrs or any(tensor is buffer for buffer in self.root.buffers())


def _autocast() -> list[bool]:
    return [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]


def _restore_attributes(before: dict[nn.Module, dict[str, Any]]) -> tuple[nn.Module, str] | None:
    """Undo what ``forward`` set while it was recorded; return the first module and attribute name found changed."""
    changed = None
    for module, attributes in before.items():
        now = vars(module)
        names = [n for n in {**attributes, **now} if now.get(n, before) is not attributes.get(n, before)]
        if names:
            changed = changed or (module, names[0])
            now.clear()
            now.update(attributes)
    return changed


def _random_states() -> tuple[Any, ...]:
    return random.getstate(), torch.get_rng_state(), np.random.get_state()  # noqa: NPY002


def _restore_random_states(before: tuple[Any, ...]) -> bool:
    """Undo what ``forward`` drew while it was recorded; return whether it drew anything."""
    now = _random_states()
    random.setstate(before[0])
    torch.set_rng_state(before[1])
    np.random.set_state(before[2])  # noqa: NPY002
    same_numpy = np.array_equal(now[2][1], before[2][1]) and now[2][2:] == before[2][2:]
    return not (now[0] == before[0] and torch.equal(now[1], before[1]) and same_numpy)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]

"""Watches the Python state that a model's ``forward`` may read, and undoes changes after a recording."""

from __future__ import annotations

import argparse
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["FLAT_WEIGHTS", "UnwatchableError", "Watch", "is_library"]

MAX_OBJECTS = 10_000
MAX_ARRAY_BYTES = 1 << 16  # of a watched NumPy array

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TENSORS = ("_parameters", "_buffers")  # may change freely: every call looks them up again
FLAT_WEIGHTS = ("_flat_weights", "_flat_weight_refs")  # nn.RNNBase.__setattr__ updates these
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...), Enum)
_OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_LIBRARIES = ("torch", "numpy", "maml_fast")
_LIBRARY_FOLDERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class UnwatchableError(Exception):
    """Some state can't be watched, so its changes would go unnoticed; the message names it."""


class _Container(NamedTuple):
    """An object that holds others: ``read(holder)`` lists them, and ``write(holder, objects)`` puts them back.

    before: the held objects when the watch was made.
    ids: their ids.
    """

    holder: Any
    read: Callable[[Any], Sequence[Any]]
    write: Callable[[Any, Sequence[Any]], None]
    before: Sequence[Any]
    ids: list[int]


class Watch:
    """A snapshot of the Python state that a model or function depends on, apart from tensors.

    It covers the attributes of all modules and of the objects that they hold, lists, dictionaries and sets, and the
    global variables, closures and class attributes that are named in the code of the user's own classes and functions.
    The code of libraries is assumed not to change, and neither are objects of their types, except for modules and plain
    containers.

    Attributes:
        names: names of the global variables and attributes that the user's code uses.

    Raises:
        UnwatchableError: there are too many objects, or a NumPy array that is too large or holds Python objects.
    """

    names: set[str]

    def __init__(self, watched: Any) -> None:
        self.names = set()
        self._tensors: list[Tensor] = []  # held outside of modules
        self._of_modules: list[_Container] = []  # the attributes of modules
        self._containers: list[_Container] = []  # everything else
        self._empty: list[dict[Any, Any]] = []  # dictionaries that were empty
        self._parameters: list[dict[str, nn.Parameter | None]] = []  # the ``_parameters`` of modules
        self._seen: dict[int, Any] = {}  # by id; keeps the objects alive, so that ids are not reused
        todo: list[Any] = [watched]
        while todo:
            each = todo.pop()
            if isinstance(each, Tensor):
                self._tensors.append(each)
            if isinstance(each, (*_PLAIN, *_OF_TORCH, Tensor)) or id(each) in self._seen:
                continue
            self._seen[id(each)] = each
            if len(self._seen) > MAX_OBJECTS:
                raise UnwatchableError(f"it holds more than {MAX_OBJECTS:,} objects")
            for kind, visit in _VISITS:
                if isinstance(each, kind):
                    todo += visit(self, each)
                    break
            else:
                todo += self._visit_object(each)
        self._modules = [each.holder for each in self._of_modules]
        self._ids = list(map(id, chain.from_iterable(map(dict.values, self._modules))))

    def holds(self) -> bool:
        """Whether nothing has changed. This runs at every call; most watched containers are empty hook dictionaries."""
        attributes = list(map(id, chain.from_iterable(map(dict.values, self._modules))))
        containers = self._containers if attributes == self._ids else [*self._of_modules, *self._containers]
        return not any(self._empty) and all(
            list(map(id, read(holder))) == ids or _are_equal(read(holder), before)
            for holder, read, _, before, ids in containers
        )

    def parameters(self) -> list[nn.Parameter | None]:
        """The current parameters of all modules, in the order of their places."""
        return list(chain.from_iterable(map(dict.values, self._parameters)))

    def sees_leaves(self) -> bool:
        """Whether any watched parameter or tensor currently requires gradients."""
        return any(each is not None and each.requires_grad for each in (*self.parameters(), *self._tensors))

    def restore(self) -> bool:
        """Put everything back as it was; return whether anything had changed."""
        changed = any(self._empty)
        for held in self._empty:
            held.clear()
        for holder, read, write, before, ids in (*self._of_modules, *self._containers):
            if list(map(id, now := read(holder))) != ids and not _are_equal(now, before):
                write(holder, before)
                changed = True
        return changed

    def _add(
        self, holder: Any, read: Callable[[Any], Sequence[Any]], write: Callable[[Any, Any], None]
    ) -> Sequence[Any]:
        self._containers.append(_container(holder, read, write))
        return self._containers[-1].before

    def _visit_module(self, module: nn.Module) -> Iterator[Any]:
        held = vars(module)
        self._parameters.append(module._parameters)
        write = partial(_write_values, dict(held))
        if FLAT_WEIGHTS[0] in held:
            self._add(held, _read_recurrent, write)
        else:
            self._of_modules.append(_container(held, _read_values, write))
        for name in ("_modules", *_HOOKS):
            yield from self._visit_dict(held[name])
        yield from (value for name, value in held.items() if name not in (*_TENSORS, *_HOOKS, "_modules"))
        yield type(module)

    def _visit_class(self, cls: type) -> Iterator[Any]:
        if is_library(cls.__module__):
            return
        names = [name for name in vars(cls) if not name.startswith("__")]
        self._add(cls, partial(_read_class, names=names), partial(_write_class, names=names))
        yield from vars(cls).values()
        yield from cls.__bases__

    def _visit_function(self, function: types.FunctionType) -> Iterator[Any]:
        if is_library(function.__module__) or function.__code__.co_filename.startswith(_LIBRARY_FOLDERS):
            return
        names = set(_names(function.__code__))
        self.names |= names
        known = function.__globals__
        yield from self._visit_names(known, [name for name in names if name in known])
        for name in names:
            if isinstance(module := known.get(name), types.ModuleType) and not is_library(module.__name__):
                yield from self._visit_names(vars(module), [each for each in names if each in vars(module)])
        for cell in function.__closure__ or ():
            yield from self._add(cell, _read_cell, _write_cell)
        yield from (function.__defaults__, function.__kwdefaults__, vars(function))

    def _visit_names(self, known: dict[str, Any], names: list[str]) -> Iterator[Any]:
        if names:
            yield from self._add(known, partial(_read_keys, names=names), partial(_write_keys, names=names))

    def _visit_method(self, method: types.MethodType) -> Iterator[Any]:
        yield from (method.__self__, method.__func__)

    def _visit_partial(self, function: partial[Any]) -> Iterator[Any]:
        yield from (function.func, function.args, function.keywords)

    def _visit_property(self, what: property) -> Iterator[Any]:
        yield from (what.fget, what.fset)

    def _visit_wrapped(self, method: Any) -> Iterator[Any]:
        yield method.__func__

    def _visit_dict(self, held: dict[Any, Any]) -> Iterable[Any]:
        if held:
            return self._add(held, _read_dict, _write_dict)
        self._empty.append(held)
        return ()

    def _visit_items(self, held: Any) -> Iterable[Any]:
        return self._add(held, list, _write_items)

    def _visit_fixed(self, held: Iterable[Any]) -> Iterable[Any]:
        return held

    def _visit_array(self, array: np.ndarray[Any, Any]) -> Iterable[Any]:
        if array.nbytes > MAX_ARRAY_BYTES or array.dtype.hasobject:
            raise UnwatchableError(
                f"the model holds a NumPy array {list(array.shape)}, whose changes would not be noticed"
            )
        self._add(array, _read_array, _write_array)
        return ()

    def _visit_nothing(self, _: Any) -> Iterable[Any]:
        return ()

    def _visit_object(self, obj: Any) -> Iterator[Any]:
        kind = type(obj)
        if is_library(kind.__module__) and not isinstance(obj, _NAMESPACES):
            return
        if hasattr(obj, "__dict__"):
            yield from self._add(vars(obj), _read_dict, _write_dict)
        slots = [name for cls in kind.__mro__ for name in _slots(cls) if hasattr(obj, name)]
        if slots:
            yield from self._add(obj, partial(_read_slots, names=slots), partial(_write_slots, names=slots))
        yield kind


_VISITS: tuple[tuple[Any, Callable[[Watch, Any], Iterable[Any]]], ...] = (
    (nn.Module, Watch._visit_module),
    (type, Watch._visit_class),
    (types.FunctionType, Watch._visit_function),
    (types.MethodType, Watch._visit_method),
    (partial, Watch._visit_partial),
    (property, Watch._visit_property),
    ((staticmethod, classmethod), Watch._visit_wrapped),
    (dict, Watch._visit_dict),
    ((list, set, deque), Watch._visit_items),
    ((tuple, frozenset), Watch._visit_fixed),
    (np.ndarray, Watch._visit_array),
    ((types.ModuleType, types.BuiltinFunctionType), Watch._visit_nothing),
)


def _container(holder: Any, read: Callable[[Any], Sequence[Any]], write: Callable[[Any, Any], None]) -> _Container:
    before = read(holder)
    return _Container(holder, read, write, before, list(map(id, before)))


def _names(code: types.CodeType) -> Iterator[str]:
    """The names of all global variables and attributes in a function's code, nested functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def is_library(module_name: str | None) -> bool:
    """Whether a module is not the user's own: torch, NumPy, maml_fast, the standard library, an installed package."""
    if module_name is None or module_name.partition(".")[0] in _LIBRARIES or module_name in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module_name), "__file__", None)
    return file is not None and file.startswith(_LIBRARY_FOLDERS)


def _slots(cls: type) -> Iterable[str]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else [name for name in slots if name not in ("__dict__", "__weakref__")]


def _are_equal(now: Sequence[Any], before: Sequence[Any]) -> bool:
    """Whether all objects are the same as before, or plain values that are equal."""
    return len(now) == len(before) and all(
        a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b) for a, b in zip(now, before, strict=True)
    )


def _read_dict(held: dict[Any, Any]) -> list[Any]:
    return [*held, *held.values()]


def _write_dict(held: dict[Any, Any], before: Sequence[Any]) -> None:
    half = len(before) // 2
    held.clear()
    held.update(zip(before[:half], before[half:], strict=True))


def _read_values(attributes: dict[str, Any]) -> list[Any]:
    return list(attributes.values())


def _read_recurrent(attributes: dict[str, Any]) -> list[Any]:
    return [value for name, value in attributes.items() if name not in FLAT_WEIGHTS]


def _write_values(before: dict[str, Any], attributes: dict[str, Any], _: Sequence[Any]) -> None:
    """Put a module's attributes back in their order, except for those that recurrent layers rebuild themselves."""
    rebuilt = {name: attributes[name] for name in FLAT_WEIGHTS if name in attributes}
    attributes.clear()
    attributes.update({**before, **rebuilt})


def _write_items(held: Any, before: Sequence[Any]) -> None:
    held.clear()
    if isinstance(held, set):
        held.update(before)
    else:
        held.extend(before)


def _read_keys(known: dict[str, Any], names: Sequence[str]) -> list[Any]:
    return [known.get(name) for name in names]


def _write_keys(known: dict[str, Any], before: Sequence[Any], names: Sequence[str]) -> None:
    known.update(zip(names, before, strict=True))


def _read_class(cls: type, names: Sequence[str]) -> list[Any]:
    return [vars(cls).get(name) for name in names]


def _write_class(cls: type, before: Sequence[Any], names: Sequence[str]) -> None:
    for name, value in zip(names, before, strict=True):
        if vars(cls).get(name) is not value:
            setattr(cls, name, value)


def _read_slots(obj: Any, names: Sequence[str]) -> list[Any]:
    return [getattr(obj, name, None) for name in names]


def _write_slots(obj: Any, before: Sequence[Any], names: Sequence[str]) -> None:
    for name, value in zip(names, before, strict=True):
        setattr(obj, name, value)


def _read_cell(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # the cell is still empty
        return []


def _write_cell(cell: types.CellType, before: Sequence[Any]) -> None:
    if before:
        cell.cell_contents = before[0]


def _read_array(array: np.ndarray[Any, Any]) -> list[Any]:
    return [array.tobytes()]


def _write_array(array: np.ndarray[Any, Any], before: Sequence[Any]) -> None:
    array[...] = np.frombuffer(before[0], array.dtype).reshape(array.shape)

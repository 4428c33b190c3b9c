"""Stacks tasks, as other programs make them, into the four tensors of episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_fast._arguments import shown

__all__ = ["stack_tasks"]

Parts = tuple[Tensor, Tensor, Tensor, Tensor]

_NAMES = ("x_spt", "y_spt", "x_qry", "y_qry")
_HALVES = (("train", "test"), ("support", "query"))  # keys of torchmeta's batches


def stack_tasks(tasks: Any, n_support: int | None, k_shot: int | None) -> Parts:
    """Return x_spt [T, N, ...], y_spt, x_qry and y_qry; see :meth:`maml_fast.Episodes.from_tasks`."""
    if isinstance(tasks, Mapping):
        return _of_batch(tasks)
    if not isinstance(tasks, Iterable) or isinstance(tasks, Tensor | str | bytes):
        raise TypeError(f"tasks must be an iterable of tasks or a batch of torchmeta, got {shown(tasks)}")
    found = [_parts(f"tasks[{i}]", task, n_support, k_shot) for i, task in enumerate(tasks)]
    if not found:
        raise ValueError("tasks must hold at least one task, got none")
    for i, task in enumerate(found):
        for name, part, first in zip(_NAMES, task, found[0], strict=True):
            if part.shape != first.shape:
                raise ValueError(
                    f"all tasks must have the same shapes, but {name} is {list(first.shape)} in tasks[0] and "
                    f"{list(part.shape)} in tasks[{i}]"
                )
    x_spt, y_spt, x_qry, y_qry = (torch.stack(parts) for parts in zip(*found, strict=True))
    return x_spt, y_spt, x_qry, y_qry


def _of_batch(batch: Mapping[str, Any]) -> Parts:
    """Return the parts of a batch of torchmeta, which holds pairs (x, y) of all tasks."""
    for support, query in _HALVES:
        if support in batch and query in batch:
            x_spt, y_spt = _tensors(f"tasks[{support!r}]", batch[support], 2)
            x_qry, y_qry = _tensors(f"tasks[{query!r}]", batch[query], 2)
            return x_spt, y_spt, x_qry, y_qry
    keys = " or ".join(f"{support!r} and {query!r}" for support, query in _HALVES)
    raise ValueError(f"tasks, if it is one batch, must have the keys {keys}, got {shown([*batch])}")


def _parts(name: str, task: Any, n_support: int | None, k_shot: int | None) -> Parts:
    if isinstance(task, tuple | list) and len(task) == 2:
        x, y = _tensors(name, task, 2)
        return _split(name, x, y, n_support, k_shot)
    if n_support is not None or k_shot is not None:
        raise ValueError(f"n_support and k_shot split pairs (x, y), but {name} is {shown(task)}")
    # The fifth entry of a task of easyfsl has the true classes of its labels.
    x_spt, y_spt, x_qry, y_qry = _tensors(name, task[:4] if _is_easyfsl(task) else task, 4)
    return x_spt, y_spt, x_qry, y_qry


def _is_easyfsl(task: Any) -> bool:
    return isinstance(task, tuple | list) and len(task) == 5 and isinstance(task[4], list)


def _tensors(name: str, task: Any, n: int) -> list[Tensor]:
    if not isinstance(task, tuple | list) or len(task) != n:
        wanted = "(x, y)" if n == 2 else f"(x, y) or ({', '.join(_NAMES)})"
        raise TypeError(f"{name} must be {wanted}, got {shown(task)}")
    for i, part in enumerate(task):
        if not isinstance(part, Tensor | np.ndarray):
            raise TypeError(f"{name}[{i}] must be a tensor or a NumPy array, got {shown(part)}")
    return [torch.as_tensor(part) for part in task]


def _split(name: str, x: Tensor, y: Tensor, n_support: int | None, k_shot: int | None) -> Parts:
    """Split one task's rows."""
    if (n_support is None) == (k_shot is None):
        raise ValueError(f"{name} is a pair (x, y): say how many rows are its support, by either n_support or k_shot")
    if x.dim() < 1 or y.dim() < 1 or len(x) != len(y):
        raise ValueError(f"{name} must be a pair of equally many rows, got x {list(x.shape)} and y {list(y.shape)}")
    if n_support is not None:
        if n_support >= len(x):
            raise ValueError(f"{name} has {len(x)} rows, of which n_support={n_support} leave no query; lower it")
        return x[:n_support], y[:n_support], x[n_support:], y[n_support:]
    assert k_shot is not None
    support = _first_of_every_class(name, y, k_shot)
    return x[support], y[support], x[~support], y[~support]


def _first_of_every_class(name: str, y: Tensor, k_shot: int) -> Tensor:
    """Return which rows are the first ``k_shot`` of their class, a bool mask."""
    if y.dim() != 1:
        raise ValueError(f"k_shot needs labels [N], one of each row, but y of {name} is {list(y.shape)}; use n_support")
    chosen = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for label in y.unique():
        rows = (y == label).nonzero().flatten()
        if len(rows) <= k_shot:
            raise ValueError(
                f"class {label} of {name} has {len(rows)} rows, of which k_shot={k_shot} leave no query; lower it"
            )
        chosen[rows[:k_shot]] = True
    return chosen

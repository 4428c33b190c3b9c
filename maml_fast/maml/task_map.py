"""Functions of one task, called for all tasks at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import vmap

__all__ = ["TaskMap"]

PerTask: TypeAlias = Tensor | Mapping[str, Tensor]  # every tensor [T, ...]


class TaskMap:
    """``task_map(function, per_task, common)``: ``function(*per_task, *common) -> Tensor`` of every task, [T, ...].

    By ``torch.func.vmap``; where that can't batch the function (it looks at values, or has no batching rule, as
    ``nn.LSTM``), task by task from then on, after one warning that names the reason.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._batched = True

    def __call__(
        self, function: Callable[..., Tensor], per_task: tuple[PerTask, ...], common: tuple[Any, ...] = ()
    ) -> Tensor:
        """Map over the leading dimension of ``per_task``; ``common`` is the same for all tasks."""
        if not self._batched:
            return _one_by_one(function, per_task, common)
        in_dims = (0,) * len(per_task) + (None,) * len(common)
        try:
            return vmap(function, in_dims, randomness="different")(*per_task, *common)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
        results = _one_by_one(function, per_task, common)  # if this fails too, its error is the plainer one
        self._batched = False
        warnings.warn(f"{self._what} runs task by task, which is slow: vmap failed ({reason})", stacklevel=2)
        return results


def _one_by_one(function: Callable[..., Tensor], per_task: tuple[PerTask, ...], common: tuple[Any, ...]) -> Tensor:
    last = per_task[-1]
    n_tasks = len(last if isinstance(last, Tensor) else next(iter(last.values())))
    return torch.stack([function(*(_of(each, t) for each in per_task), *common) for t in range(n_tasks)])


def _of(per_task: PerTask, task: int) -> PerTask:
    if isinstance(per_task, Tensor):
        return per_task[task]
    return {name: tensor[task] for name, tensor in per_task.items()}

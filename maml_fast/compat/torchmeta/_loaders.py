"""DataLoaders of tasks."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from torch.utils.data import DataLoader, Sampler, default_collate

from maml_fast._arguments import instance
from maml_fast.compat.torchmeta._meta_datasets import CombinationMetaDataset, MetaDataset

__all__ = ["BatchMetaDataLoader", "CombinationRandomSampler", "CombinationSequentialSampler", "MetaDataLoader"]


class _CombinationSampler(Sampler[tuple[int, ...]]):
    def __init__(self, data_source: CombinationMetaDataset) -> None:
        self.data_source: CombinationMetaDataset = instance(CombinationMetaDataset)("data_source", data_source)
        self._n_classes, self._n_way = len(data_source.dataset), data_source.num_classes_per_task

    def __len__(self) -> int:
        return len(self.data_source)


class CombinationSequentialSampler(_CombinationSampler):
    """Yields all combinations of classes in order."""

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return combinations(range(self._n_classes), self._n_way)


class CombinationRandomSampler(_CombinationSampler):
    """Draws as many combinations of classes as there are, with Python's ``random``."""

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        for _ in range(math.comb(self._n_classes, self._n_way)):
            yield tuple(random.sample(range(self._n_classes), self._n_way))


class MetaDataLoader(DataLoader[Any]):
    """A DataLoader whose batches are lists of tasks.

    Args:
        dataset: a set of tasks.
        batch_size: tasks of a batch, ``T``.
        shuffle: whether to draw tasks, instead of going through them in order.
        sampler, batch_sampler, num_workers, collate_fn, pin_memory, drop_last, timeout, worker_init_fn: as in
            ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: MetaDataset,
        batch_size: int = 1,
        shuffle: bool = True,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Any = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Any = None,
    ) -> None:
        if isinstance(dataset, CombinationMetaDataset) and sampler is None:
            sampler = (CombinationRandomSampler if shuffle else CombinationSequentialSampler)(dataset)
            shuffle = False
        super().__init__(
            dataset,  # type: ignore[arg-type]
            batch_size=batch_size,
            shuffle=shuffle,
            sampler=sampler,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=list if collate_fn is None else collate_fn,
            pin_memory=pin_memory,
            drop_last=drop_last,
            timeout=timeout,
            worker_init_fn=worker_init_fn,
        )


class BatchMetaDataLoader(MetaDataLoader):
    """A DataLoader whose batches hold the samples of T tasks: inputs [T, N, ...] and targets [T, N].

    If tasks are split, a batch is a dictionary of such pairs, by part; :meth:`maml_fast.Episodes.from_tasks` takes it.

    Args:
        dataset: a set of tasks.
        batch_size: tasks of a batch, ``T``.
        shuffle: whether to draw tasks, instead of going through them in order.
        sampler, num_workers, pin_memory, drop_last, timeout, worker_init_fn: as in ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: MetaDataset,
        batch_size: int = 1,
        shuffle: bool = True,
        sampler: Any = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Any = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=_stack_tasks,
            pin_memory=pin_memory,
            drop_last=drop_last,
            timeout=timeout,
            worker_init_fn=worker_init_fn,
        )


def _stack_tasks(tasks: Sequence[Any]) -> Any:
    return default_collate([_stack_samples(task) for task in tasks])


def _stack_samples(task: Any) -> Any:
    if isinstance(task, Mapping):
        return type(task)((part, _stack_samples(subset)) for part, subset in task.items())  # type: ignore[call-arg]
    return default_collate([task[i] for i in range(len(task))])

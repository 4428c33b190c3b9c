"""Splits tasks into support and query sets."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from maml_fast._arguments import flag, int_from, optional, shown, takes
from maml_fast.compat.torchmeta._meta_datasets import MetaDataset
from maml_fast.compat.torchmeta._tasks import Chain, ConcatTask, SubsetTask, Task

__all__ = ["ClassSplitter", "Splitter"]

COUNT = optional(int_from(1))


class Splitter:
    """Splits a task's samples, class by class: calling it returns the parts of a task by name.

    Args:
        shuffle: whether to shuffle the samples of each class before.
        counts: the number of samples of each class in each part.
        random_state_seed: the seed of NumPy's generator.
    """

    def __init__(self, shuffle: bool, counts: Mapping[str, int], random_state_seed: int) -> None:
        self.shuffle = shuffle
        self.splits = OrderedDict(counts)
        self.random_state_seed = random_state_seed
        self.seed(random_state_seed)

    def seed(self, seed: int | None) -> None:
        """Seed the generator; None draws a seed."""
        self.np_random = np.random.RandomState(seed)

    def __call__(self, task: Task) -> OrderedDict[str, SubsetTask]:
        """Return the parts of a task.

        Raises:
            ValueError: a class has too few samples.
        """
        indices = OrderedDict[str, list[int]]((part, []) for part in self.splits)
        for name, samples, seed in self._classes(task):
            needed = sum(self.splits.values())
            if len(samples) < needed:
                raise ValueError(f"class {name} has {len(samples)} samples, but ClassSplitter needs {needed}; lower it")
            order = np.arange(len(samples))
            if self.shuffle:
                order = np.random.RandomState((seed + self.random_state_seed) % 2**32).permutation(len(samples))
            start = 0
            for part, count in self.splits.items():
                chosen = order[start : start + count]
                if self.shuffle:
                    self.np_random.shuffle(chosen)
                indices[part] += [samples[i] for i in chosen]
                start += count
        return OrderedDict((part, SubsetTask(task, found)) for part, found in indices.items())

    def __len__(self) -> int:
        return len(self.splits)

    def _classes(self, task: Task) -> list[tuple[Any, range | list[int], int]]:
        """Return the name, the numbers of the samples and the seed of each class of a task, as the original draws."""
        if isinstance(task, ConcatTask):
            ends = task.cumulative_sizes
            starts = [0, *ends[:-1]]
            return [
                (each.index, range(start, end), hash(task) + hash(each))
                for each, start, end in zip(task.datasets, starts, ends, strict=True)
            ]
        if task.num_classes is None:
            return [("of a regression task", range(len(task)), hash(task))]  # type: ignore[arg-type]
        of_class = defaultdict[Any, list[int]](list)
        for i in range(len(task)):  # type: ignore[arg-type]
            of_class[task[i][-1]].append(i)
        return [(name, samples, hash(task) + i) for i, (name, samples) in enumerate(of_class.items())]


@takes(shuffle=flag, num_train_per_class=COUNT, num_test_per_class=COUNT)
@takes(num_support_per_class=COUNT, num_query_per_class=COUNT, random_state_seed=int_from(0, 2**32 - 1))
def ClassSplitter(  # noqa: N802
    task: Task | MetaDataset | None = None,
    shuffle: bool = True,
    num_samples_per_class: Mapping[str, int] | None = None,
    num_train_per_class: int | None = None,
    num_test_per_class: int | None = None,
    num_support_per_class: int | None = None,
    num_query_per_class: int | None = None,
    random_state_seed: int = 0,
) -> Any:
    """Split tasks into parts with a number of samples of each class.

    Args:
        task: a task, or a set of tasks, to split.
        shuffle: whether to shuffle the samples of each class before.
        num_samples_per_class: the number of samples of each class in each part, such as ``{"train": 5, "test": 15}``.
        num_train_per_class, num_support_per_class: instead, that of a part called "train" or "support".
        num_test_per_class, num_query_per_class: that of a part called "test" or "query".
        random_state_seed: the seed of NumPy's generator.

    Returns:
        A function of tasks if ``task`` is None; the parts of a task; or the set of tasks, which is changed so that its
        tasks are split.

    Raises:
        TypeError: ``task`` is neither, or another argument has the wrong type.
        ValueError: no part has a number.
    """
    if num_samples_per_class is None:
        support = ("train", num_train_per_class) if num_train_per_class else ("support", num_support_per_class)
        query = ("test", num_test_per_class) if num_test_per_class else ("query", num_query_per_class)
        num_samples_per_class = {part: count for part, count in (support, query) if count is not None}
    if not isinstance(num_samples_per_class, Mapping):
        raise TypeError(f"num_samples_per_class must map parts to numbers, got {shown(num_samples_per_class)}")
    if not num_samples_per_class:
        raise ValueError("say how many samples of a class each part has, as in num_train_per_class=5")
    counts = {part: int_from(0)(f"num_samples_per_class[{part!r}]", n) for part, n in num_samples_per_class.items()}
    splitter = Splitter(shuffle, counts, random_state_seed)
    if task is None:
        return splitter
    if isinstance(task, MetaDataset):
        before = task.dataset_transform
        task.dataset_transform = splitter if before is None else Chain([before, splitter])
        return task
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task or a MetaDataset, got {shown(task)}")
    return splitter(task)

"""Task transforms, which choose the samples of a task and say how they are made.

A transform is called with the task so far, a list of :class:`DataDescription`, and returns it changed. ``None`` stands
for all samples of the data set. Random choices are drawn by Python's ``random``, in the same way and order as in
learn2learn, so that the same seed gives the same tasks.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from maml_fast._arguments import flag, int_from, takes
from maml_fast.compat.learn2learn.data._description import DataDescription, TaskDescription

__all__ = [
    "ConsecutiveLabels",
    "DataDescription",
    "FilterLabels",
    "FusedNWaysKShots",
    "KShots",
    "LoadData",
    "NWays",
    "RemapLabels",
    "TaskTransform",
]


class TaskTransform:
    """Base class of task transforms.

    Args:
        dataset: the :class:`~maml_fast.compat.learn2learn.data.MetaDataset` that the tasks are made of.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def new_task(self) -> TaskDescription:
        """Return the task of all samples."""
        return _described(range(len(self.dataset)))

    def __call__(self, task_description: TaskDescription | None) -> TaskDescription:
        """Return the task, changed."""
        return self.new_task() if task_description is None else task_description


class LoadData(TaskTransform):
    """Reads samples from the data set."""

    def __call__(self, task_description: TaskDescription | None) -> TaskDescription:
        """Return the task, with data."""
        task = super().__call__(task_description)
        for each in task:
            each.transforms.append(self._load)
        return task

    def _load(self, index: int) -> Any:
        return self.dataset[index]


class FilterLabels(TaskTransform):
    """Keeps the samples of some labels.

    Args:
        dataset: as for :class:`TaskTransform`.
        labels: the labels.
    """

    def __init__(self, dataset: Any, labels: Iterable[Any]) -> None:
        super().__init__(dataset)
        self.labels = list(labels)
        self._kept = set(self.labels)

    def __call__(self, task_description: TaskDescription | None) -> TaskDescription:
        """Return the task without the samples of other labels."""
        label_of = self.dataset.indices_to_labels
        return [each for each in super().__call__(task_description) if label_of[each.index] in self._kept]


class ConsecutiveLabels(TaskTransform):
    """Sorts the samples by label."""

    def __call__(self, task_description: TaskDescription | None) -> TaskDescription:
        """Return the task, sorted."""
        label_of = self.dataset.indices_to_labels
        return sorted(super().__call__(task_description), key=lambda each: label_of[each.index])


class RemapLabels(TaskTransform):
    """Replaces the labels of a task by 0, 1, ....

    Args:
        dataset: as for :class:`TaskTransform`.
        shuffle: whether the new labels are drawn at random.
    """

    @takes(shuffle=flag)
    def __init__(self, dataset: Any, shuffle: bool = True) -> None:
        super().__init__(dataset)
        self.shuffle = shuffle

    def __call__(self, task_description: TaskDescription | None) -> TaskDescription:
        """Return the task, with new labels."""
        task = super().__call__(task_description)
        label_of = self.dataset.indices_to_labels
        labels = list({label_of[each.index] for each in task})
        if self.shuffle:
            random.shuffle(labels)
        relabel = partial(_relabeled, {label: number for number, label in enumerate(labels)})
        for each in task:
            each.transforms.append(relabel)
        return task


class NWays(TaskTransform):
    """Keeps the samples of n random classes of the task.

    Args:
        dataset: as for :class:`TaskTransform`.
        n: the number of classes.
    """

    @takes(n=int_from(1))
    def __init__(self, dataset: Any, n: int = 2) -> None:
        super().__init__(dataset)
        self.n = n

    def new_task(self) -> TaskDescription:
        """Return the task of all samples of n classes."""
        return _described(self.draw())

    def draw(self) -> list[int]:
        """Return the numbers of all samples of n random classes of the data set."""
        classes = _sample(self.dataset.labels, self.n, "classes")
        return [i for label in classes for i in self.dataset.labels_to_indices[label]]

    def __call__(self, task_description: TaskDescription | None) -> TaskDescription:
        """Return the task without its other classes."""
        if task_description is None:
            return self.new_task()
        label_of = self.dataset.indices_to_labels
        classes = set(_sample(list({label_of[each.index] for each in task_description}), self.n, "classes"))
        return [each for each in task_description if label_of[each.index] in classes]


class KShots(TaskTransform):
    """Keeps k random samples of every class of the task.

    Args:
        dataset: as for :class:`TaskTransform`.
        k: the number of samples.
        replacement: whether a sample may be drawn several times.
    """

    @takes(k=int_from(1), replacement=flag)
    def __init__(self, dataset: Any, k: int = 1, replacement: bool = False) -> None:
        super().__init__(dataset)
        self.k = k
        self.replacement = replacement

    def __call__(self, task_description: TaskDescription | None) -> TaskDescription:
        """Return the task with k samples of every class, class after class."""
        task = super().__call__(task_description)
        drawn = self._draw([each.index for each in task], task)
        return [_copy(each) for each in drawn] if self.replacement else drawn

    def of_indices(self, indices: Sequence[int]) -> TaskDescription:
        """Return the task of k samples of every class among these samples."""
        return _described(self._draw(indices, indices))

    def _draw(self, indices: Sequence[int], samples: Sequence[Any]) -> list[Any]:
        label_of = self.dataset.indices_to_labels
        of_class: defaultdict[Any, list[Any]] = defaultdict(list)
        for i, sample in zip(indices, samples, strict=True):
            of_class[label_of[i]].append(sample)
        if self.replacement:
            return [each for found in of_class.values() for each in random.choices(found, k=self.k)]
        return [each for found in of_class.values() for each in _sample(found, self.k, "samples of a class")]


class FusedNWaysKShots(TaskTransform):
    """Keeps k random samples of each of n random classes, as :class:`NWays` and :class:`KShots` do, but faster.

    Args:
        dataset: as for :class:`TaskTransform`.
        n: the number of classes.
        k: the number of samples of each.
        replacement: whether a sample may be drawn several times.
        filter_labels: the labels to draw classes from; all by default.
    """

    @takes(n=int_from(1), k=int_from(1), replacement=flag)
    def __init__(
        self,
        dataset: Any,
        n: int = 2,
        k: int = 1,
        replacement: bool = False,
        filter_labels: Iterable[Any] | None = None,
    ) -> None:
        super().__init__(dataset)
        self.n = n
        self.k = k
        self.replacement = replacement
        self.filter_labels = list(dataset.labels if filter_labels is None else filter_labels)
        self.filter = FilterLabels(dataset, self.filter_labels)
        self.nways = NWays(dataset, n)
        self.kshots = KShots(dataset, k, replacement)

    def new_task(self) -> TaskDescription:
        """Return the task of k samples of each of n classes."""
        task: list[int] = []
        for label in _sample(self.filter_labels, self.n, "classes"):
            indices = self.dataset.labels_to_indices[label]
            if self.replacement:
                task += [random.choice(indices) for _ in range(self.k)]
            else:
                task += _sample(indices, self.k, f"samples of class {label!r}")
        return _described(task)

    def __call__(self, task_description: TaskDescription | None) -> TaskDescription:
        """Return the task with n classes of k samples."""
        if task_description is None:
            return self.new_task()
        return self.kshots(self.nways(self.filter(task_description)))


def _described(indices: Iterable[int]) -> TaskDescription:
    return [DataDescription(i) for i in indices]


def _copy(each: DataDescription) -> DataDescription:
    copy = DataDescription(each.index)
    copy.transforms = list(each.transforms)
    return copy


def _sample(population: Sequence[Any], k: int, what: str) -> list[Any]:
    if len(population) < k:
        raise ValueError(f"a task needs {k} {what}, but there are {len(population)}")
    return random.sample(population, k)


def _relabeled(numbers: dict[Any, int], data: Iterable[Any]) -> list[Any]:
    """Return a sample with its label replaced."""
    x, label, *rest = data
    return [x, numbers[label.item() if hasattr(label, "item") else label], *rest]

"""Sets of tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset
from torch.utils.data.dataloader import default_collate

from maml_fast._arguments import int_from, takes
from maml_fast.compat.learn2learn.data._description import DataDescription, TaskDescription
from maml_fast.compat.learn2learn.data.meta_dataset import DATASET, MetaDataset
from maml_fast.compat.learn2learn.data.transforms import KShots, NWays
from maml_fast.compat.learn2learn.utils import warn_once

__all__ = ["DataDescription", "TaskDataset", "Taskset"]

Transform = Callable[[Any], TaskDescription]


class Taskset(Dataset[Any]):
    """Tasks of a data set, drawn when they are asked for.

    Args:
        dataset: the data set; one that is no ``MetaDataset`` becomes one.
        task_transforms: the transforms that make a task, or a single function that makes it of ``None``.
        num_tasks: the number of different tasks, which are kept once they are drawn; with -1 every task is new, and the
            length is 1.
        task_collate: makes a task of the list of its samples; PyTorch's ``default_collate`` by default.

    Raises:
        TypeError: if ``dataset`` is not a ``torch.utils.data.Dataset``.
        ValueError: if ``num_tasks`` is 0 or below -1.
    """

    @takes(dataset=DATASET, num_tasks=int_from(-1))
    def __init__(
        self,
        dataset: Dataset[Any],
        task_transforms: Sequence[Transform] | Transform | None = None,
        num_tasks: int = -1,
        task_collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if num_tasks == 0:
            raise ValueError("num_tasks must be positive, or -1 for an endless number of tasks; got 0")
        self.dataset = dataset if isinstance(dataset, MetaDataset) else MetaDataset(dataset)
        self.num_tasks = num_tasks
        self.task_transforms = [] if task_transforms is None else task_transforms
        self.sampled_descriptions: dict[int, TaskDescription] = {}
        self.task_collate = default_collate if task_collate is None else task_collate
        self._task_id = 0

    def sample_task_description(self) -> TaskDescription:
        """Draw a task, without its data."""
        if callable(self.task_transforms):
            return self.task_transforms(None)
        transforms = list(self.task_transforms)
        description: Any = None
        if [type(each) for each in transforms[:2]] == [NWays, KShots]:
            # The same draws, without describing all the samples of the classes first.
            description = transforms[1].of_indices(transforms[0].draw())  # type: ignore[attr-defined]
            transforms = transforms[2:]
        for transform in transforms:
            description = transform(description)
        return description

    def get_task(self, task_description: TaskDescription) -> Any:
        """Return the task of a description, with its data."""
        samples = []
        for each in task_description:
            sample: Any = each.index
            for transform in each.transforms:
                sample = transform(sample)
            samples.append(sample)
        return self.task_collate(samples)

    def sample(self) -> Any:
        """Return a random task."""
        return self[random.randint(0, len(self) - 1)]

    def __len__(self) -> int:
        return 1 if self.num_tasks == -1 else self.num_tasks

    def __getitem__(self, i: int) -> Any:
        if self.num_tasks == -1:
            return self.get_task(self.sample_task_description())
        if i not in self.sampled_descriptions:
            self.sampled_descriptions[i] = self.sample_task_description()
        return self.get_task(self.sampled_descriptions[i])

    def __iter__(self) -> Iterator[Any]:
        self._task_id = 0
        return self

    def __next__(self) -> Any:
        if self._task_id == self.num_tasks:
            raise StopIteration
        task = self[self._task_id]
        self._task_id += self.num_tasks != -1
        return task

    def __add__(self, other: Any) -> Any:
        raise NotImplementedError("tasks can't be added; use a UnionMetaDataset of their data sets")


class TaskDataset(Taskset):
    """The former name of :class:`Taskset`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        warn_once("TaskDataset is deprecated, use Taskset instead.", severity="deprecation")

"""Batches of a data loader that are tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch.utils.data import Sampler

from maml_fast._arguments import flag, instance, takes
from maml_fast.compat.learn2learn.data._description import TaskDescription
from maml_fast.compat.learn2learn.data.task_dataset import Taskset

__all__ = ["TasksetSampler"]


class TasksetSampler(Sampler[list[int]]):
    """The samples of one task after the other, for ``DataLoader(dataset, batch_sampler=...)``.

    Args:
        taskset: the tasks, whose transforms other than the choice of samples are left out.
        shuffle: whether a finite set of tasks is gone through in random order.
    """

    @takes(taskset=instance(Taskset), shuffle=flag)
    def __init__(self, taskset: Taskset, shuffle: bool = True) -> None:
        self.taskset = taskset
        self.shuffle = shuffle

    def description2indices(self, task_description: TaskDescription) -> list[int]:
        """Return the numbers of the samples of a task."""
        return [each.index for each in task_description]

    def __iter__(self) -> Iterator[list[int]]:
        tasks = self.taskset
        while tasks.num_tasks == -1:
            yield self.description2indices(tasks.sample_task_description())
        order = list(range(tasks.num_tasks))
        if self.shuffle:
            random.shuffle(order)
        for i in order:
            if i not in tasks.sampled_descriptions:
                tasks.sampled_descriptions[i] = tasks.sample_task_description()
            yield self.description2indices(tasks.sampled_descriptions[i])

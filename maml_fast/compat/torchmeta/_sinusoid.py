"""Sine waves, the regression tasks of Finn et al. (2017, section 5.1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from maml_fast._arguments import flag, int_from, number, optional, takes
from maml_fast.compat.torchmeta._meta_datasets import OPTIONAL_FUNCTION, SEED, MetaDataset
from maml_fast.compat.torchmeta._splitters import ClassSplitter
from maml_fast.compat.torchmeta._tasks import Task, Transform

__all__ = ["Sinusoid", "sinusoid"]

AMPLITUDES, PHASES, INPUTS = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0)


class Sinusoid(MetaDataset):
    """Tasks ``y = amplitude * sin(x - phase)``.

    Amplitudes are uniform in [0.1, 5], phases in [0, π], and inputs in [-5, 5]. Samples are pairs of float64 arrays,
    [1] each.
    The same :meth:`seed` gives the same tasks as the original.

    Args:
        num_samples_per_task: samples of a task.
        num_tasks: the number of tasks.
        noise_std: the standard deviation of the targets' noise; None for no noise.
        transform: a function of inputs.
        target_transform: a function of targets.
        dataset_transform: a function of tasks, such as a ``ClassSplitter``.

    Raises:
        TypeError, ValueError: a number has the wrong type or is out of range.
    """

    @takes(num_samples_per_task=int_from(1), num_tasks=int_from(1), noise_std=optional(number(least=0)))
    @takes(transform=OPTIONAL_FUNCTION)
    def __init__(
        self,
        num_samples_per_task: int,
        num_tasks: int = 1_000_000,
        noise_std: float | None = None,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(meta_split="train", target_transform=target_transform, dataset_transform=dataset_transform)
        self.num_samples_per_task = num_samples_per_task
        self.num_tasks = num_tasks
        self.noise_std = noise_std
        self.transform = transform

    @cached_property
    def amplitudes(self) -> np.ndarray:
        """The amplitudes of all tasks, drawn at first use."""
        return self.np_random.uniform(*AMPLITUDES, size=self.num_tasks)

    @cached_property
    def phases(self) -> np.ndarray:
        """The phases of all tasks, drawn at first use."""
        return self.np_random.uniform(*PHASES, size=self.num_tasks)

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, index: int) -> Any:
        amplitude, phase = self.amplitudes[index], self.phases[index]
        x = self.np_random.uniform(*INPUTS, size=(self.num_samples_per_task, 1))
        y = amplitude * np.sin(x - phase)
        if self.noise_std:
            y += self.noise_std * self.np_random.randn(self.num_samples_per_task, 1)
        task = _Wave(index, x, y, self.transform, self.target_transform)
        return task if self.dataset_transform is None else self.dataset_transform(task)


class _Wave(Task):
    def __init__(
        self,
        index: int,
        x: np.ndarray,
        y: np.ndarray,
        transform: Transform | None,
        target_transform: Transform | None,
    ) -> None:
        super().__init__(index, None, transform, target_transform)
        self._x, self._y = x, y  # [N, 1]

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.transformed(self._x[index], self._y[index])


@takes(shots=int_from(1), shuffle=flag, test_shots=optional(int_from(1)), seed=SEED)
def sinusoid(
    shots: int, shuffle: bool = True, test_shots: int | None = None, seed: int | None = None, **kwargs: Any
) -> Sinusoid:
    """Return sine waves split into "train" and "test".

    Args:
        shots: samples of a support set.
        shuffle: whether to shuffle the samples of a task before the split.
        test_shots: samples of a query set; ``shots`` if None.
        seed: the seed of the tasks.
        **kwargs: options of :class:`Sinusoid`.
    """
    test_shots = shots if test_shots is None else test_shots
    dataset = ClassSplitter(
        Sinusoid(shots + test_shots, **kwargs),
        shuffle=shuffle,
        num_train_per_class=shots,
        num_test_per_class=test_shots,
    )
    dataset.seed(seed)
    return dataset

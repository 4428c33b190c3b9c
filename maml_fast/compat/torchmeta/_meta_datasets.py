"""Sets of tasks, and sets of classes of which tasks are made."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from maml_fast._arguments import choice, flag, function, int_from, optional, shown, takes
from maml_fast.compat.torchmeta._targets import DefaultTargetTransform, FixedCategory, for_one_task
from maml_fast.compat.torchmeta._tasks import Chain, ConcatTask, Dataset, Transform

__all__ = ["ClassDataset", "CombinationMetaDataset", "MetaDataset"]

SPLITS = ("train", "val", "test")
OPTIONAL_FUNCTION = optional(function())
SEED = optional(int_from(0, 2**32 - 1))


class _OfSplit:
    """What belongs to one of the splits "train", "val" and "test"."""

    @takes(meta_train=flag, meta_val=flag, meta_test=flag, meta_split=optional(choice(*SPLITS)))
    def __init__(
        self,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
    ) -> None:
        chosen = [split for split, is_it in zip(SPLITS, (meta_train, meta_val, meta_test), strict=True) if is_it]
        chosen = chosen or [split for split in SPLITS if split == meta_split]
        if len(chosen) != 1:
            raise ValueError(
                "exactly one of meta_train, meta_val and meta_test must be True, or meta_split be train, val or test; "
                f"got meta_train={meta_train}, meta_val={meta_val}, meta_test={meta_test}, "
                f"meta_split={shown(meta_split)}"
            )
        self.meta_split = chosen[0]
        self.meta_train, self.meta_val, self.meta_test = (split == self.meta_split for split in SPLITS)


class ClassDataset(_OfSplit):
    """Base class of sets of classes: item i is the data set of class i.

    Each augmentation adds ``num_classes`` further classes. A subclass defines ``num_classes`` and ``__getitem__``.

    Args:
        meta_train, meta_val, meta_test: which split it is; exactly one of them must be True.
        meta_split: "train", "val" or "test", instead.
        class_augmentations: a list of iterables of augmentations, such as ``[Rotation([90, 180, 270])]``.

    Raises:
        TypeError, ValueError: no split is chosen, or several are, or the augmentations are not a list.
    """

    def __init__(
        self,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        class_augmentations: list[Iterable[Transform]] | None = None,
    ) -> None:
        super().__init__(meta_train, meta_val, meta_test, meta_split)
        self.class_augmentations = _flattened([] if class_augmentations is None else class_augmentations)

    @property
    def num_classes(self) -> int:
        """The number of classes before augmentation."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Dataset:
        raise NotImplementedError

    def __len__(self) -> int:
        return self.num_classes * (len(self.class_augmentations) + 1)

    def get_class_augmentation(self, index: int) -> Transform | None:
        """Return the augmentation that makes class ``index``; None for a class without."""
        which = index // self.num_classes
        return self.class_augmentations[which - 1] if which else None

    def get_transform(self, index: int, transform: Transform | None = None) -> Transform | None:
        """Return the augmentation of class ``index``, followed by ``transform``."""
        augmentation = self.get_class_augmentation(index)
        if augmentation is None or transform is None:
            return augmentation or transform
        return Chain([augmentation, transform])

    def get_target_transform(self, index: int) -> FixedCategory:
        """Return the transform that adds its augmentation to the name of class ``index``."""
        return FixedCategory(self.get_class_augmentation(index))


def _flattened(class_augmentations: list[Iterable[Transform]]) -> list[Transform]:
    """Return each augmentation once."""
    if not isinstance(class_augmentations, list) or not all(isinstance(each, Iterable) for each in class_augmentations):
        wanted = "a list of iterables of augmentations, such as [Rotation([90, 180, 270])]"
        raise TypeError(f"class_augmentations must be {wanted}, got {shown(class_augmentations)}")
    return list(dict.fromkeys(each for several in class_augmentations for each in several))


class MetaDataset(_OfSplit):
    """Base class of sets of tasks. A subclass defines ``__getitem__`` and ``__len__``.

    Args:
        meta_train, meta_val, meta_test: which split it is; exactly one of them must be True.
        meta_split: "train", "val" or "test", instead.
        target_transform: a function of targets.
        dataset_transform: a function of tasks, such as a ``ClassSplitter``.

    Raises:
        TypeError, ValueError: no split is chosen, or several are.
    """

    @takes(target_transform=OPTIONAL_FUNCTION, dataset_transform=OPTIONAL_FUNCTION)
    def __init__(
        self,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        target_transform: Transform | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(meta_train, meta_val, meta_test, meta_split)
        self.target_transform = target_transform
        self.dataset_transform = dataset_transform
        self.seed()

    @takes(seed=SEED)
    def seed(self, seed: int | None = None) -> None:
        """Seed NumPy's generator of this object and of its ``dataset_transform``; None draws a seed."""
        self.np_random = np.random.RandomState(seed)
        for transform in getattr(self.dataset_transform, "transforms", [self.dataset_transform]):
            if hasattr(transform, "seed"):
                transform.seed(seed)

    def sample_task(self) -> Any:
        """Draw a task."""
        return self[self.np_random.randint(len(self))]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


class CombinationMetaDataset(MetaDataset):
    """Classification tasks: all combinations of N classes. The index of a task is a tuple of class numbers.

    Args:
        dataset: the classes.
        num_classes_per_task: classes of a task, ``N``.
        target_transform: a function of the pairs (class, augmentation), such as ``Categorical(N)``.
        dataset_transform: a function of tasks, such as a ``ClassSplitter``.

    Raises:
        TypeError: ``num_classes_per_task`` is not an integer.
        ValueError: it is larger than the number of classes.
    """

    @takes(num_classes_per_task=int_from(1))
    def __init__(
        self,
        dataset: ClassDataset,
        num_classes_per_task: int,
        target_transform: Transform | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if num_classes_per_task > len(dataset):
            raise ValueError(f"num_classes_per_task is {num_classes_per_task}, but there are {len(dataset)} classes")
        if target_transform is None:
            target_transform = DefaultTargetTransform(dataset.class_augmentations)
        super().__init__(
            meta_split=dataset.meta_split, target_transform=target_transform, dataset_transform=dataset_transform
        )
        self.dataset = dataset
        self.num_classes_per_task = num_classes_per_task

    def sample_task(self) -> Any:
        """Draw a task of different classes."""
        return self[tuple(self.np_random.choice(len(self.dataset), size=self.num_classes_per_task, replace=False))]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in combinations(range(len(self.dataset)), self.num_classes_per_task))

    def __getitem__(self, index: Sequence[int]) -> Any:
        if not isinstance(index, tuple | list) or len(index) != self.num_classes_per_task:
            raise ValueError(
                f"the index of a task must be {self.num_classes_per_task} class numbers, got {shown(index)}"
            )
        classes = [self.dataset[i] for i in index]
        transform = for_one_task(self.target_transform, self.num_classes_per_task)
        task = ConcatTask(classes, self.num_classes_per_task, transform)
        return task if self.dataset_transform is None else self.dataset_transform(task)

    def __len__(self) -> int:
        """The number of combinations, or the largest number that ``len`` can return."""
        return min(math.comb(len(self.dataset), self.num_classes_per_task), sys.maxsize)

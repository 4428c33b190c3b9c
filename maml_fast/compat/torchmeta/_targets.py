"""Transforms of targets."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from maml_fast._arguments import int_from, optional, takes
from maml_fast.compat.torchmeta._tasks import Transform

__all__ = ["Categorical", "DefaultTargetTransform", "FixedCategory", "TargetTransform", "for_one_task"]


class TargetTransform:
    """Base class of functions of targets."""

    def __call__(self, target: Any) -> Any:
        raise NotImplementedError


class Categorical(TargetTransform):
    """Numbers the classes of a task from 0, in an order drawn from torch's generator for each task.

    Args:
        num_classes: the number of classes; if None, classes are numbered in the order in which they occur.
    """

    @takes(num_classes=optional(int_from(1)))
    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Forget the classes seen so far, and their order."""
        self.classes: dict[Hashable, int] = {}
        self._order: list[int] | None = None

    def __call__(self, target: Hashable) -> int:
        """Return the number of a class.

        Raises:
            ValueError: it is one class too many.
        """
        if target not in self.classes:
            self.classes[target] = self._next()
        return self.classes[target]

    def _next(self) -> int:
        seen = len(self.classes)
        if self.num_classes is None:
            return seen
        if seen == self.num_classes:
            raise ValueError(f"the task has more than the {self.num_classes} classes of Categorical({seen})")
        if self._order is None:
            self._order = torch.randperm(self.num_classes).tolist()
        return self._order[seen]

    def __repr__(self) -> str:
        return f"Categorical({'' if self.num_classes is None else self.num_classes})"


class FixedCategory:
    """Returns pairs of a class and the augmentation that made it another class."""

    def __init__(self, transform: Transform | None = None) -> None:
        self.transform = transform

    def __call__(self, index: Any) -> tuple[Any, Transform | None]:
        return index, self.transform

    def __repr__(self) -> str:
        return f"FixedCategory({self.transform})"


class DefaultTargetTransform(TargetTransform):
    """Numbers the augmentations of classes from 1; 0 stands for none."""

    def __init__(self, class_augmentations: Sequence[Transform]) -> None:
        self.class_augmentations = class_augmentations
        self._numbers: dict[Transform | None, int] = {None: 0}
        self._numbers |= {augmentation: i for i, augmentation in enumerate(class_augmentations, start=1)}

    def __call__(self, target: tuple[Any, Transform | None]) -> tuple[Any, int]:
        label, augmentation = target
        return label, self._numbers[augmentation]


def for_one_task(transform: Any, num_classes: int) -> Any:
    """Return the transform for one task: every Categorical in it, also within a ``Compose``, starts anew."""
    if isinstance(transform, Categorical):
        found = copy.copy(transform)
        found.num_classes = found.num_classes or num_classes
        found.reset()
        return found
    if hasattr(transform, "transforms"):
        return type(transform)([for_one_task(each, num_classes) for each in transform.transforms])
    return transform

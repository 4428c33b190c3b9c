"""Tasks: data sets with an index among all tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Subset
from torch.utils.data import Dataset as TorchDataset

__all__ = ["Chain", "ConcatTask", "Dataset", "SubsetTask", "Task", "Transform"]

Transform = Callable[[Any], Any]


class Chain:
    """Applies transforms one after another, like torchvision's ``Compose``."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, value: Any) -> Any:
        for transform in self.transforms:
            value = transform(value)
        return value


class Dataset(TorchDataset[Any]):
    """A data set of samples (input, target).

    Args:
        index: what identifies it among all data sets of its kind.
        transform: a function of inputs.
        target_transform: a function of targets.
    """

    def __init__(
        self, index: Any, transform: Transform | None = None, target_transform: Transform | None = None
    ) -> None:
        self.index = index
        self.transform = transform
        self.target_transform = target_transform

    def target_transform_append(self, transform: Transform | None) -> None:
        """Apply another transform to the targets, after those so far."""
        if transform is not None:
            before = self.target_transform
            self.target_transform = transform if before is None else Chain([before, transform])

    def transformed(self, value: Any, target: Any) -> tuple[Any, Any]:
        """Return a sample after the transforms."""
        value = value if self.transform is None else self.transform(value)
        return value, target if self.target_transform is None else self.target_transform(target)

    def __hash__(self) -> int:
        return hash(self.index)


class Task(Dataset):
    """A data set of a single task.

    Args:
        index: what identifies it among all tasks.
        num_classes: the number of its classes; None for regression.
        transform: a function of inputs.
        target_transform: a function of targets.
    """

    def __init__(
        self,
        index: Any,
        num_classes: int | None,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
    ) -> None:
        super().__init__(index, transform, target_transform)
        self.num_classes = num_classes


class ConcatTask(Task, ConcatDataset[Any]):
    """A task of several data sets, one for each class."""

    datasets: list[Dataset]  # type: ignore[assignment]

    def __init__(
        self, datasets: Sequence[Dataset], num_classes: int, target_transform: Transform | None = None
    ) -> None:
        Task.__init__(self, tuple(each.index for each in datasets), num_classes)
        ConcatDataset.__init__(self, datasets)
        for each in datasets:
            each.target_transform_append(target_transform)


class SubsetTask(Task, Subset[Any]):
    """Some samples of a task, such as its support set."""

    dataset: Task

    def __init__(
        self,
        dataset: Task,
        indices: Sequence[int],
        num_classes: int | None = None,
        target_transform: Transform | None = None,
    ) -> None:
        Task.__init__(self, dataset.index, dataset.num_classes if num_classes is None else num_classes)
        Subset.__init__(self, dataset, indices)
        dataset.target_transform_append(target_transform)

    def __hash__(self) -> int:
        return hash((self.index, tuple(self.indices)))

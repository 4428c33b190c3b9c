"""Tools around tasks: splitting them, endless loops, data sets in memory."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from maml_fast._arguments import int_from, location, takes, tensor, text

__all__ = [
    "InfiniteIterator",
    "OnDeviceDataset",
    "download_file",
    "download_file_from_google_drive",
    "partition_task",
]


class InfiniteIterator:
    """Goes through an iterable, such as a ``DataLoader``, again and again."""

    def __init__(self, dataloader: Iterable[Any]) -> None:
        self.dataloader = dataloader
        self.iterator = iter(dataloader)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self.iterator)
        except StopIteration:
            self.iterator = iter(self.dataloader)
        try:
            return next(self.iterator)
        except StopIteration:
            raise ValueError("the iterable is empty, or can be gone through only once") from None


@takes(data=tensor, labels=tensor, shots=int_from(0))
def partition_task(data: Tensor, labels: Tensor, shots: int = 1) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split a task into its support set, the first ``shots`` samples of every class, and its query set, the others.

    Args:
        data: the samples [N, ...], as many of every class.
        labels: their labels [N].
        shots: samples of every class in the support set.

    Returns:
        The data and labels of the support set, and those of the query set, both sorted by label.

    Raises:
        ValueError: if the classes have different numbers of samples, or no more than ``shots``.
    """
    if len(data) != len(labels):
        raise ValueError(f"there are {len(data)} samples and {len(labels)} labels")
    classes, counts = labels.unique(return_counts=True)
    if len(set(counts.tolist())) != 1 or counts[0] < shots:
        raise ValueError(
            f"every class needs the same number of samples, at least {shots}; got {counts.tolist()} of the classes "
            f"{classes.tolist()}"
        )
    of_class = [data[labels == label] for label in classes]
    n_query = int(counts[0]) - shots
    support = torch.cat([each[:shots] for each in of_class]), classes.repeat_interleave(shots)
    query = torch.cat([each[shots:] for each in of_class]), classes.repeat_interleave(n_query)
    return support, query


class OnDeviceDataset(TensorDataset):
    """A whole data set as two tensors, on a device.

    Args:
        dataset: a data set of tensors and integer labels.
        device: where to keep it; by default on the CPU.
        transform: called with the data of each sample that is read.
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        device: torch.device | str | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        pairs = [(x, y) for x, y in dataset]
        data, labels = torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs])
        if device is not None:
            data, labels = data.to(device), labels.to(device)
        if data.device.type == "cpu" and torch.cuda.is_available():
            data, labels = data.pin_memory(), labels.pin_memory()
        super().__init__(data, labels)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        x, y = super().__getitem__(index)
        return (x if self.transform is None else self.transform(x)), y

    def labels_of_samples(self) -> list[int]:
        """Return the labels of all samples."""
        labels: list[int] = self.tensors[1].tolist()
        return labels


@takes(source=text, destination=location)
def download_file(source: str, destination: str | os.PathLike[str], size: int | None = None) -> None:
    """Download a file; it appears under its name only when it is complete. ``size`` has no effect.

    Raises:
        OSError: the address can't be reached, or the file can't be written.
    """
    path = Path(destination)
    partial = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(source) as answer, partial.open("wb") as file:
            shutil.copyfileobj(answer, file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@takes(id=text, destination=location)
def download_file_from_google_drive(id: str, destination: str | os.PathLike[str]) -> None:
    """Download a file that Google Drive knows by its ``id``, as :func:`download_file` does."""
    download_file(f"https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t", destination)

"""Data sets that know which samples belong to which class."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from maml_fast._arguments import instance, shown, takes

__all__ = ["FilteredMetaDataset", "MetaDataset", "UnionMetaDataset"]

Label = Hashable
DATASET = instance(Dataset, "give it __getitem__ and __len__, and the base class torch.utils.data.Dataset")


class MetaDataset(Dataset[Any]):
    """A data set of classification, with the samples of every class.

    Args:
        dataset: a data set whose samples are ``(data, label, ...)``.
        labels_to_indices: the numbers of the samples of every label, if they are known.
        indices_to_labels: the label of every sample, if they are known. If neither is given, every sample is read once
            for its label; a data set with a ``_bookkeeping_path`` keeps the result in that file.

    Attributes:
        labels_to_indices, indices_to_labels: as above.
        labels: all labels, in the order in which they occur.

    Raises:
        TypeError: if ``dataset`` is not a ``torch.utils.data.Dataset``.
        ValueError: if a label is neither a plain value nor a tensor of one element, or the file is damaged.
    """

    labels_to_indices: Mapping[Any, Sequence[int]]
    indices_to_labels: Mapping[int, Any]
    labels: list[Any]

    @takes(dataset=DATASET)
    def __init__(
        self,
        dataset: Dataset[Any],
        labels_to_indices: Mapping[Any, Sequence[int]] | None = None,
        indices_to_labels: Mapping[int, Any] | None = None,
    ) -> None:
        self.dataset = dataset
        if hasattr(dataset, "_bookkeeping_path"):
            self.load_bookkeeping(dataset._bookkeeping_path)
        else:
            self.create_bookkeeping(labels_to_indices, indices_to_labels)

    def __getitem__(self, item: int) -> Any:
        return self.dataset[item]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def create_bookkeeping(
        self,
        labels_to_indices: Mapping[Any, Sequence[int]] | None = None,
        indices_to_labels: Mapping[int, Any] | None = None,
    ) -> None:
        """Find the samples of every class: by one of the arguments, or by reading the data set."""
        if labels_to_indices is not None:
            indices_to_labels = {i: label for label, indices in labels_to_indices.items() for i in indices}
        else:
            if indices_to_labels is None:
                indices_to_labels = dict(enumerate(_labels_of(self.dataset)))
            labels_to_indices = _by_label(indices_to_labels.items())
        self._keep(labels_to_indices, indices_to_labels)

    def load_bookkeeping(self, path: str) -> None:
        """Read a file of :meth:`serialize_bookkeeping`; if there is none, make it."""
        if not Path(path).exists():
            self.create_bookkeeping()
            self.serialize_bookkeeping(path)
            return
        with Path(path).open("rb") as file:
            try:
                found = _PlainUnpickler(file).load()
                self._keep(found["labels_to_indices"], found["indices_to_labels"])
            except Exception as error:  # damaged pickles raise many kinds of errors
                raise ValueError(f"{path} holds no labels of a data set ({error}); remove it") from error

    def serialize_bookkeeping(self, path: str) -> None:
        """Write the samples of every class to a file."""
        kept = {"labels_to_indices": dict(self.labels_to_indices), "indices_to_labels": dict(self.indices_to_labels)}
        Path(path).write_bytes(pickle.dumps({**kept, "labels": self.labels}))

    def _keep(self, labels_to_indices: Mapping[Any, Sequence[int]], indices_to_labels: Mapping[int, Any]) -> None:
        self.labels_to_indices = labels_to_indices
        self.indices_to_labels = indices_to_labels
        self.labels = list(labels_to_indices)


class UnionMetaDataset(MetaDataset):
    """Several data sets as one. The labels of all are replaced by 0, 1, ...: the same label in two means two classes.

    Args:
        datasets: the data sets; those that are no :class:`MetaDataset` become one.
    """

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = [_as_meta(dataset) for dataset in datasets]
        indices_to_labels: dict[int, int] = {}
        first_index = first_label = 0
        for dataset in self.datasets:
            numbers = {label: first_label + i for i, label in enumerate(dataset.labels)}
            for i, label in dataset.indices_to_labels.items():
                indices_to_labels[first_index + i] = numbers[label]
            first_index += len(dataset.indices_to_labels)
            first_label += len(dataset.labels_to_indices)
        self._keep(_by_label(indices_to_labels.items()), indices_to_labels)

    def __getitem__(self, item: int) -> list[Any]:
        i = item
        for dataset in self.datasets:
            if i < len(dataset):
                data, _, *rest = dataset[i]
                return [data, self.indices_to_labels[item], *rest]
            i -= len(dataset)
        raise IndexError(f"sample {item} of {len(self)}")

    def __len__(self) -> int:
        return len(self.indices_to_labels)


class FilteredMetaDataset(MetaDataset):
    """Some classes of a data set. Samples get new numbers; labels stay.

    Args:
        dataset: the data set; one that is no :class:`MetaDataset` becomes one.
        labels: the labels to keep.

    Raises:
        ValueError: if the data set has no such label.
    """

    def __init__(self, dataset: Dataset[Any], labels: Iterable[Any]) -> None:
        whole = _as_meta(dataset)
        self.dataset = whole
        kept = []
        for label in labels:
            if label not in whole.labels_to_indices:
                raise ValueError(f"the data set has no label {label!r}; it has {shown(whole.labels)}")
            kept += [(label, i) for i in whole.labels_to_indices[label]]
        self.to_true_indices = [i for _, i in kept]
        by_label = _by_label(enumerate(label for label, _ in kept))
        self._keep(by_label, {new: whole.indices_to_labels[i] for new, i in enumerate(self.to_true_indices)})

    def __getitem__(self, item: int) -> Any:
        return self.dataset[self.to_true_indices[item]]

    def __len__(self) -> int:
        return len(self.indices_to_labels)


def _as_meta(dataset: Dataset[Any]) -> MetaDataset:
    return dataset if isinstance(dataset, MetaDataset) else MetaDataset(dataset)


def _by_label(labels: Iterable[tuple[int, Any]]) -> dict[Any, list[int]]:
    """Return the numbers of the samples of every label, in the order in which they occur."""
    found: defaultdict[Any, list[int]] = defaultdict(list)
    for i, label in labels:
        found[label].append(i)
    return dict(found)


def _labels_of(dataset: Any) -> Iterable[Any]:
    if hasattr(dataset, "labels_of_samples"):  # of vision.datasets, which need not read images for them
        return dataset.labels_of_samples()
    return (_plain(dataset[i][1]) for i in range(len(dataset)))


def _plain(label: Any) -> Any:
    try:
        return label.item() if hasattr(label, "item") else label
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"a label must be a single value, got {shown(label)}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries of plain values, which is all that such a file needs; nothing else is run."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("collections", "defaultdict"): defaultdict, ("builtins", "list"): list, ("builtins", "int"): int}
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks to run {module}.{name}; refused")
        return allowed[module, name]

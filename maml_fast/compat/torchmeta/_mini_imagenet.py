"""Tasks of mini-ImageNet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from maml_fast.compat.torchmeta._image_classes import ImageClasses, takes_image_options
from maml_fast.compat.torchmeta._image_sources import BankSource, Hdf5Source, Source
from maml_fast.compat.torchmeta._meta_datasets import ClassDataset, CombinationMetaDataset
from maml_fast.compat.torchmeta._tasks import Transform
from maml_fast.data import load

__all__ = ["MiniImagenet"]


class MiniImagenet(CombinationMetaDataset):
    """Tasks of mini-ImageNet: 84 pixels per side, as Pillow's images.

    The images come from torchmeta's own ``root/miniimagenet/{train,val,test}_data.hdf5`` if these are there, which
    needs h5py, and else from what ``maml_fast.data.load("mini-imagenet", root)`` finds in ``root/miniimagenet`` or
    ``root``.

    Args:
        root: the folder of the data.
        num_classes_per_task: classes of a task.
        meta_train, meta_val, meta_test: which split it is; exactly one of them must be True.
        meta_split: "train", "val" or "test", instead.
        transform: a function of Pillow's images.
        target_transform: a function of the pairs (class, augmentation), such as ``Categorical``.
        dataset_transform: a function of tasks, such as a ``ClassSplitter``.
        class_augmentations: a list of iterables of augmentations, such as ``[Rotation([90, 180, 270])]``.
        download: not used; mini-ImageNet has to be there.

    Raises:
        FileNotFoundError: mini-ImageNet is missing; the message says how to get it.
        ModuleNotFoundError: there is an .hdf5 file, but no h5py.
        TypeError, ValueError: an argument has the wrong type, or no split is chosen, or several are.
    """

    @takes_image_options
    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int = 5,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
        class_augmentations: list[Iterable[Transform]] | None = None,
        download: bool = False,
    ) -> None:
        options: dict[str, Any] = {"meta_train": meta_train, "meta_val": meta_val, "meta_test": meta_test}
        options |= {"meta_split": meta_split, "class_augmentations": class_augmentations}
        split = ClassDataset(**options).meta_split
        folder = Path(root).expanduser() / "miniimagenet"
        source: Source
        if (folder / f"{split}_data.hdf5").is_file():
            source = Hdf5Source(folder / f"{split}_data.hdf5", "datasets")
            labels = json.loads((folder / f"{split}_labels.json").read_text())
        else:
            bank = load("mini-imagenet", folder if folder.is_dir() else root)[split]
            source, labels = BankSource(bank), sorted(bank.class_names)
        classes = ImageClasses(labels, source, transform, **options)
        super().__init__(classes, num_classes_per_task, target_transform, dataset_transform)

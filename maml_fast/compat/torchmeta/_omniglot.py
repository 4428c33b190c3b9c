"""Tasks of Omniglot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maml_fast._arguments import flag, takes
from maml_fast.compat.torchmeta._image_classes import ImageClasses, takes_image_options
from maml_fast.compat.torchmeta._image_sources import BankSource, Hdf5Source, Source
from maml_fast.compat.torchmeta._meta_datasets import ClassDataset, CombinationMetaDataset
from maml_fast.compat.torchmeta._tasks import Transform
from maml_fast.data import ImageBank, prepare_omniglot, read_omniglot
from maml_fast.data._omniglot_layout import OMNIGLOT, class_names, vinyals_split

__all__ = ["Omniglot"]


class Omniglot(CombinationMetaDataset):
    """Tasks of Omniglot: white ink on black, 105 pixels per side, as Pillow's images.

    The images come from torchmeta's own ``root/omniglot/data.hdf5`` if it is there, which needs h5py, and else from
    what :func:`maml_fast.data.read_omniglot` finds in ``root``.

    Args:
        root: the folder of the data.
        num_classes_per_task: classes of a task.
        meta_train, meta_val, meta_test: which split it is; exactly one of them must be True.
        meta_split: "train", "val" or "test", instead.
        use_vinyals_split: whether the splits are those of Vinyals et al. (2016). If not, "train" is images_background,
            "test" is images_evaluation, and there is no "val".
        transform: a function of Pillow's images.
        target_transform: a function of the pairs (class, augmentation), such as ``Categorical``.
        dataset_transform: a function of tasks, such as a ``ClassSplitter``.
        class_augmentations: a list of iterables of augmentations, such as ``[Rotation([90, 180, 270])]``.
        download: whether to download Omniglot to ``root/omniglot`` if it is missing.

    Raises:
        FileNotFoundError: Omniglot is missing.
        ModuleNotFoundError: there is a ``data.hdf5``, but no h5py.
        TypeError, ValueError: an argument has the wrong type, or no split is chosen, or several are.
    """

    @takes_image_options
    @takes(use_vinyals_split=flag)
    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int = 5,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        use_vinyals_split: bool = True,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
        class_augmentations: list[Iterable[Transform]] | None = None,
        download: bool = False,
    ) -> None:
        options: dict[str, Any] = {"meta_train": meta_train, "meta_val": meta_val, "meta_test": meta_test}
        options |= {"meta_split": meta_split, "class_augmentations": class_augmentations}
        split = ClassDataset(**options).meta_split
        if split == "val" and not use_vinyals_split:
            raise ValueError("without use_vinyals_split there is no split val; use_vinyals_split=True has one")
        folder = Path(root).expanduser() / "omniglot"
        source: Source
        if (folder / "data.hdf5").is_file():
            source = Hdf5Source(folder / "data.hdf5")
            listed = json.loads((folder / f"{'vinyals_' * use_vinyals_split}{split}_labels.json").read_text())
            labels = ["/".join(label) for label in listed]
        else:
            source = _WithArchives(_omniglot(Path(root).expanduser(), download))
            labels = _omniglot_classes(split, use_vinyals_split)
        classes = ImageClasses(labels, source, transform, **options)
        super().__init__(classes, num_classes_per_task, target_transform, dataset_transform)


class _WithArchives(BankSource):
    """Omniglot by torchmeta's names of characters, which begin with the name of the archive."""

    def __init__(self, bank: ImageBank) -> None:
        super().__init__(bank, inverted=True)

    def __getitem__(self, name: str) -> np.ndarray:
        return super().__getitem__(name.partition("/")[2])


def _omniglot(root: Path, download: bool) -> ImageBank:
    size = OMNIGLOT.drawing_size
    try:
        return read_omniglot(root, size=size)
    except FileNotFoundError:
        if not download:
            raise
    (root / "omniglot").mkdir(parents=True, exist_ok=True)
    prepare_omniglot(root / "omniglot", size=size, download=True)
    return read_omniglot(root, size=size)


def _omniglot_classes(split: str, use_vinyals_split: bool) -> list[str]:
    background, evaluation = ([f"{each.name}/{name}" for name in class_names(each)] for each in OMNIGLOT.archives)
    if not use_vinyals_split:
        return background if split == "train" else evaluation
    chosen = set(vinyals_split().classes[split])
    return [name for name in (*background, *evaluation) if name.partition("/")[2] in chosen]

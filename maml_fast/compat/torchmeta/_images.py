"""Tasks of images: Omniglot and mini-ImageNet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maml_fast._arguments import flag, int_from, location, takes
from maml_fast.compat.torchmeta._meta_datasets import OPTIONAL_FUNCTION, ClassDataset, CombinationMetaDataset
from maml_fast.compat.torchmeta._tasks import Dataset, Transform
from maml_fast.data import ImageBank, load, prepare_omniglot, read_omniglot
from maml_fast.data._omniglot_layout import OMNIGLOT, class_names, vinyals_split

__all__ = ["MiniImagenet", "Omniglot", "ResizedToTensor"]


_checked = takes(
    root=location,
    num_classes_per_task=int_from(1),
    transform=OPTIONAL_FUNCTION,
    target_transform=OPTIONAL_FUNCTION,
    dataset_transform=OPTIONAL_FUNCTION,
    download=flag,
)


class Source(Protocol):
    """Holds the images of each class, [n, H, W] or [n, H, W, 3], by the name of the class."""

    def __getitem__(self, name: str) -> Any:
        """Return the images of a class, as an array or a data set of h5py."""


class _Bank:
    """The images of a bank, [n, H, W] or [n, H, W, 3]; ``inverted`` makes black ink on white white on black."""

    def __init__(self, bank: ImageBank, inverted: bool = False) -> None:
        self._bank, self._inverted = bank, inverted
        self._places = {name: i for i, name in enumerate(bank.class_names)}

    def __getitem__(self, name: str) -> np.ndarray:
        images = np.moveaxis(self._bank[self._places[name]], 1, -1)
        images = images[..., 0] if images.shape[-1] == 1 else images
        return 255 - images if self._inverted else images


class _Hdf5:
    """The images in a file that torchmeta has made. It is opened at first use, in each process."""

    def __init__(self, path: Path, group: str = "/") -> None:
        try:
            import h5py  # noqa: F401
        except ModuleNotFoundError:
            raise ModuleNotFoundError(f"{path} needs h5py: pip install h5py; or move the file away") from None
        self._path, self._group = path, group
        self._file: Any = None

    def __getitem__(self, name: str) -> Any:
        import h5py

        if self._file is None:
            self._file = h5py.File(self._path, "r")
        return self._file[self._group][name]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}


class _Classes(ClassDataset):
    def __init__(self, labels: Sequence[str], images: Source, transform: Transform | None, **options: Any) -> None:
        super().__init__(**options)
        self.labels, self.data, self.transform = labels, images, transform

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Dataset:
        name = self.labels[index % self.num_classes]
        transform, target_transform = self.get_transform(index, self.transform), self.get_target_transform(index)
        return _ClassOfImages(index, self.data[name], name, transform, target_transform)


class _ClassOfImages(Dataset):
    def __init__(
        self, index: int, images: Any, name: str, transform: Transform | None, target_transform: Transform | None
    ) -> None:
        super().__init__(index, transform, target_transform)
        self._images, self._name = images, name

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.transformed(Image.fromarray(np.ascontiguousarray(self._images[index])), self._name)


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

    @_checked
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
            source = _Hdf5(folder / "data.hdf5")
            listed = json.loads((folder / f"{'vinyals_' * use_vinyals_split}{split}_labels.json").read_text())
            labels = ["/".join(label) for label in listed]
        else:
            source = _WithArchives(_omniglot(Path(root).expanduser(), download))
            labels = _omniglot_classes(split, use_vinyals_split)
        classes = _Classes(labels, source, transform, **options)
        super().__init__(classes, num_classes_per_task, target_transform, dataset_transform)


class _WithArchives(_Bank):
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

    @_checked
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
            source = _Hdf5(folder / f"{split}_data.hdf5", "datasets")
            labels = json.loads((folder / f"{split}_labels.json").read_text())
        else:
            bank = load("mini-imagenet", folder if folder.is_dir() else root)[split]
            source, labels = _Bank(bank), sorted(bank.class_names)
        classes = _Classes(labels, source, transform, **options)
        super().__init__(classes, num_classes_per_task, target_transform, dataset_transform)


class ResizedToTensor:
    """Turns a square image of Pillow's into a tensor [C, size, size] from 0 to 1, like torchvision's transforms."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = np.array(image.resize((self.size, self.size), Image.Resampling.BILINEAR))
        channels_last = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None])
        return channels_last.permute(2, 0, 1).contiguous().float() / 255

    def __repr__(self) -> str:
        return f"ResizedToTensor({self.size})"

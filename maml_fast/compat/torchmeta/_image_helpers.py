"""Sets of image tasks with the usual transforms, split into support and query sets."""

from __future__ import annotations

import os
from typing import Any

from maml_fast._arguments import flag, int_from, location, optional, takes
from maml_fast.compat.torchmeta._augmentations import Rotation
from maml_fast.compat.torchmeta._image_classes import ResizedToTensor
from maml_fast.compat.torchmeta._meta_datasets import SEED, CombinationMetaDataset
from maml_fast.compat.torchmeta._mini_imagenet import MiniImagenet
from maml_fast.compat.torchmeta._omniglot import Omniglot
from maml_fast.compat.torchmeta._splitters import ClassSplitter
from maml_fast.compat.torchmeta._targets import Categorical

__all__ = ["miniimagenet", "omniglot"]

_checked = takes(
    folder=location,
    shots=int_from(1),
    ways=int_from(1),
    shuffle=flag,
    test_shots=optional(int_from(1)),
    seed=SEED,
)


@_checked
def omniglot(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> CombinationMetaDataset:
    """Return tasks of Omniglot: images [1, 28, 28] from 0 to 1, with further classes by rotations, "train" and "test".

    Args:
        folder: the folder of the data, see :class:`.Omniglot`.
        shots: support images of a class.
        ways: classes of a task.
        shuffle: whether to shuffle the images of a class before the split.
        test_shots: query images of a class; ``shots`` if None.
        seed: the seed of the tasks.
        **kwargs: options of :class:`.Omniglot`, such as ``meta_train=True``.
    """
    kwargs = {"transform": ResizedToTensor(28), "class_augmentations": [Rotation([90, 180, 270])], **kwargs}
    return _split(Omniglot, folder, shots, ways, shuffle, test_shots, seed, kwargs)


@_checked
def miniimagenet(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> CombinationMetaDataset:
    """Return tasks of mini-ImageNet: images [3, 84, 84] from 0 to 1, "train" and "test".

    Arguments are those of :func:`omniglot`.
    """
    return _split(
        MiniImagenet, folder, shots, ways, shuffle, test_shots, seed, {"transform": ResizedToTensor(84), **kwargs}
    )


def _split(
    kind: type[CombinationMetaDataset],
    folder: Any,
    shots: int,
    ways: int,
    shuffle: bool,
    test_shots: int | None,
    seed: int | None,
    options: dict[str, Any],
) -> CombinationMetaDataset:
    options = {"num_classes_per_task": ways, "target_transform": Categorical(ways), **options}
    test_shots = shots if test_shots is None else test_shots
    dataset = ClassSplitter(
        kind(folder, **options), shuffle=shuffle, num_train_per_class=shots, num_test_per_class=test_shots
    )
    dataset.seed(seed)
    return dataset

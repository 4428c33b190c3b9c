"""The data sets of the benchmarks and their task transforms, as learn2learn defines them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from maml_fast._arguments import shown
from maml_fast.compat.learn2learn.data import FilteredMetaDataset, MetaDataset, OnDeviceDataset
from maml_fast.compat.learn2learn.data.transforms import (
    ConsecutiveLabels,
    FusedNWaysKShots,
    KShots,
    LoadData,
    NWays,
    RemapLabels,
)
from maml_fast.compat.learn2learn.vision.benchmarks._pixels import OmniglotPixels, lee2019, same, to_tensor, unit
from maml_fast.compat.learn2learn.vision.datasets import CIFARFS, FC100, FullOmniglot, MiniImagenet, TieredImagenet
from maml_fast.compat.learn2learn.vision.transforms import RandomClassRotation

__all__ = [
    "BENCHMARKS",
    "cifarfs_tasksets",
    "fc100_tasksets",
    "mini_imagenet_tasksets",
    "omniglot_tasksets",
    "tiered_imagenet_tasksets",
]

MODES = ("train", "validation", "test")

Root = str | os.PathLike[str]
Device = torch.device | str | None
Parts = tuple[tuple[MetaDataset, ...], tuple[list[Any], ...]]  # the data sets of the three modes, and their transforms


class _Sizes(NamedTuple):
    """Classes of a task and samples of each, of training and of the other two."""

    train_ways: int
    train_samples: int
    test_ways: int
    test_samples: int

    def of(self, mode: str) -> tuple[int, int]:
        return tuple(self[:2] if mode == "train" else self[2:])  # type: ignore[return-value]


def omniglot_tasksets(
    train_ways: int,
    train_samples: int,
    test_ways: int,
    test_samples: int,
    root: Root,
    device: Device = None,
    **kwargs: Any,
) -> Parts:
    """Return the data sets and the task transforms of Omniglot.

    As in learn2learn, the tasks of every part are drawn from all classes, and ``device`` is ignored.
    """
    sizes = _Sizes(train_ways, train_samples, test_ways, test_samples)
    whole = MetaDataset(OmniglotPixels(FullOmniglot(root, download=True)))
    classes = list(range(len(whole.labels)))
    random.shuffle(classes)
    split = (classes[:1100], classes[1100:1200], classes[1200:])

    def transforms(mode: str) -> list[Any]:
        ways, samples = sizes.of(mode)
        return [
            FusedNWaysKShots(whole, n=ways, k=samples),
            LoadData(whole),
            RemapLabels(whole),
            ConsecutiveLabels(whole),
            RandomClassRotation(whole, [0.0, 90.0, 180.0, 270.0]),
        ]

    return tuple(FilteredMetaDataset(whole, part) for part in split), tuple(map(transforms, MODES))


def fc100_tasksets(
    train_ways: int = 5,
    train_samples: int = 10,
    test_ways: int = 5,
    test_samples: int = 10,
    root: Root = "~/data",
    device: Device = None,
    **kwargs: Any,
) -> Parts:
    """Return the data sets and the task transforms of FC100."""
    images = [_on(device, FC100(root, mode=mode, transform=to_tensor), None) for mode in MODES]
    return _parts(images, _Sizes(train_ways, train_samples, test_ways, test_samples))


def cifarfs_tasksets(
    train_ways: int = 5,
    train_samples: int = 10,
    test_ways: int = 5,
    test_samples: int = 10,
    root: Root = "~/data",
    device: Device = None,
    **kwargs: Any,
) -> Parts:
    """Return the data sets and the task transforms of CIFAR-FS."""
    images = [_on(device, CIFARFS(root, mode=mode, transform=to_tensor), None) for mode in MODES]
    return _parts(images, _Sizes(train_ways, train_samples, test_ways, test_samples))


def mini_imagenet_tasksets(
    train_ways: int = 5,
    train_samples: int = 10,
    test_ways: int = 5,
    test_samples: int = 10,
    root: Root = "~/data",
    data_augmentation: str | None = None,
    device: Device = None,
    **kwargs: Any,
) -> Parts:
    """Return the data sets and the task transforms of mini-ImageNet."""
    named = {"normalize": lambda: (unit, unit), "lee2019": lambda: lee2019(to_picture=True, to_pixels=False)}
    chosen = _augmentation(data_augmentation, named, (None, None))

    def images(mode: str) -> Dataset[Any]:
        transform = chosen[mode != "train"]
        of_mode = MiniImagenet(root, mode=mode, transform=transform if device is None else None)
        return _on(device, of_mode, transform)

    return _parts(list(map(images, MODES)), _Sizes(train_ways, train_samples, test_ways, test_samples))


def tiered_imagenet_tasksets(
    train_ways: int = 5,
    train_samples: int = 10,
    test_ways: int = 5,
    test_samples: int = 10,
    root: Root = "~/data",
    data_augmentation: str | None = None,
    device: Device = None,
    **kwargs: Any,
) -> Parts:
    """Return the data sets and the task transforms of tiered-ImageNet."""
    on_device = device is not None
    plain = (same, same) if on_device else (to_tensor, to_tensor)
    named = {"normalize": lambda: plain, "lee2019": lambda: lee2019(to_picture=on_device, to_pixels=not on_device)}
    chosen = _augmentation(data_augmentation, named, plain)

    def images(mode: str) -> Dataset[Any]:
        transform = chosen[mode != "train"]
        of_mode = TieredImagenet(root, mode=mode, transform=to_tensor if on_device else transform)
        return _on(device, of_mode, transform)

    return _parts(list(map(images, MODES)), _Sizes(train_ways, train_samples, test_ways, test_samples))


def _augmentation(name: str | None, named: Mapping[str, Callable[[], Any]], default: Any) -> Any:
    if name is not None and name not in named:
        raise ValueError(f"data_augmentation must be None, {' or '.join(map(repr, named))}, got {shown(name)}")
    return default if name is None else named[name]()


def _on(device: Device, images: Any, transform: Callable[[Any], Any] | None) -> Dataset[Any]:
    return images if device is None else OnDeviceDataset(images, device, transform)


def _parts(images: Sequence[Dataset[Any]], sizes: _Sizes) -> Parts:
    datasets = tuple(map(MetaDataset, images))

    def transforms(dataset: MetaDataset, mode: str) -> list[Any]:
        ways, samples = sizes.of(mode)
        choice = [NWays(dataset, ways), KShots(dataset, samples), LoadData(dataset)]
        if mode == "validation":  # the order matters to the random numbers
            return [*choice, ConsecutiveLabels(dataset), RemapLabels(dataset)]
        return [*choice, RemapLabels(dataset), ConsecutiveLabels(dataset)]

    return datasets, tuple(map(transforms, datasets, MODES))


BENCHMARKS: Mapping[str, Callable[..., Parts]] = {
    "omniglot": omniglot_tasksets,
    "mini-imagenet": mini_imagenet_tasksets,
    "tiered-imagenet": tiered_imagenet_tasksets,
    "fc100": fc100_tasksets,
    "cifarfs": cifarfs_tasksets,
}

"""The data sets of the benchmarks and their task transforms, as learn2learn defines them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
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

__all__ = ["BENCHMARKS", "Part", "Sizes"]

MODES = ("train", "validation", "test")

_Device = torch.device | str | None
_Transforms = tuple[Callable[[Any], Any], Callable[[Any], Any]]  # for training, and for validation and testing


class Sizes(NamedTuple):
    """Classes of a task, and samples of each."""

    ways: int
    samples: int


class Part(NamedTuple):
    """The data set of a part, and the transforms that make its tasks."""

    dataset: MetaDataset
    transforms: list[Any]


def _omniglot(sizes: Mapping[str, Sizes], root: Path, device: _Device, **_: Any) -> list[Part]:
    """Omniglot. As in learn2learn, the tasks of every part are drawn from all classes, and ``device`` is ignored."""
    whole = MetaDataset(OmniglotPixels(FullOmniglot(root, download=True)))
    classes = list(range(len(whole.labels)))
    random.shuffle(classes)
    split = {"train": classes[:1100], "validation": classes[1100:1200], "test": classes[1200:]}

    def part(mode: str) -> Part:
        transforms = [
            FusedNWaysKShots(whole, n=sizes[mode].ways, k=sizes[mode].samples),
            LoadData(whole),
            RemapLabels(whole),
            ConsecutiveLabels(whole),
            RandomClassRotation(whole, [0.0, 90.0, 180.0, 270.0]),
        ]
        return Part(FilteredMetaDataset(whole, split[mode]), transforms)

    return [part(mode) for mode in MODES]


def _pictures(data_set: Callable[..., Any]) -> Callable[..., list[Part]]:
    def parts(sizes: Mapping[str, Sizes], root: Path, device: _Device, **_: Any) -> list[Part]:
        banks = {mode: data_set(root, mode=mode, transform=to_tensor) for mode in MODES}
        return [_part(_on(device, bank, None), sizes[mode], mode) for mode, bank in banks.items()]

    return parts


def _mini_imagenet(
    sizes: Mapping[str, Sizes], root: Path, device: _Device, data_augmentation: str | None = None, **_: Any
) -> list[Part]:
    chosen = _augmentation(
        data_augmentation, {"normalize": lambda: (unit, unit), "lee2019": lambda: lee2019(True, False)}, (None, None)
    )

    def part(mode: str) -> Part:
        transform, images = chosen[mode != "train"], MiniImagenet(root, mode=mode)
        if device is None:
            images.transform = transform
            return _part(images, sizes[mode], mode)
        return _part(_on(device, images, transform), sizes[mode], mode)

    return [part(mode) for mode in MODES]


def _tiered_imagenet(
    sizes: Mapping[str, Sizes], root: Path, device: _Device, data_augmentation: str | None = None, **_: Any
) -> list[Part]:
    pixels = to_tensor if device is None else same
    plain = pixels, pixels
    on_device = device is not None
    chosen = _augmentation(
        data_augmentation, {"normalize": lambda: plain, "lee2019": lambda: lee2019(on_device, not on_device)}, plain
    )

    def part(mode: str) -> Part:
        transform = chosen[mode != "train"]
        images = TieredImagenet(root, mode=mode, transform=transform if device is None else to_tensor)
        return _part(_on(device, images, transform), sizes[mode], mode)

    return [part(mode) for mode in MODES]


def _augmentation(name: str | None, named: Mapping[str, Callable[[], Any]], default: Any) -> Any:
    if name is not None and name not in named:
        raise ValueError(f"data_augmentation must be None, {' or '.join(map(repr, named))}, got {shown(name)}")
    return default if name is None else named[name]()


def _on(device: _Device, images: Any, transform: Callable[[Any], Any] | None) -> Dataset[Any]:
    return images if device is None else OnDeviceDataset(images, device, transform)


def _part(images: Dataset[Any], sizes: Sizes, mode: str) -> Part:
    dataset = MetaDataset(images)
    choice = [NWays(dataset, sizes.ways), KShots(dataset, sizes.samples), LoadData(dataset)]
    if mode == "validation":  # the order matters to the random numbers
        return Part(dataset, [*choice, ConsecutiveLabels(dataset), RemapLabels(dataset)])
    return Part(dataset, [*choice, RemapLabels(dataset), ConsecutiveLabels(dataset)])


BENCHMARKS: Mapping[str, Callable[..., list[Part]]] = {
    "omniglot": _omniglot,
    "mini-imagenet": _mini_imagenet,
    "tiered-imagenet": _tiered_imagenet,
    "fc100": _pictures(FC100),
    "cifarfs": _pictures(CIFARFS),
}

"""The tasks of well-known benchmarks."""

from __future__ import annotations

import os
from collections.abc import KeysView
from typing import Any, NamedTuple

import torch

from maml_fast._arguments import choice, device, int_from, optional, takes
from maml_fast.compat.learn2learn.data import Taskset
from maml_fast.compat.learn2learn.vision.benchmarks._data_sets import (
    BENCHMARKS,
    cifarfs_tasksets,
    fc100_tasksets,
    mini_imagenet_tasksets,
    omniglot_tasksets,
    tiered_imagenet_tasksets,
)
from maml_fast.compat.learn2learn.vision.datasets._image_set import folder

__all__ = [
    "BenchmarkTasksets",
    "cifarfs_tasksets",
    "fc100_tasksets",
    "get_tasksets",
    "list_tasksets",
    "mini_imagenet_tasksets",
    "omniglot_tasksets",
    "tiered_imagenet_tasksets",
]

COUNT = int_from(1)


class BenchmarkTasksets(NamedTuple):
    """The tasks of a benchmark, by part."""

    train: Taskset
    validation: Taskset
    test: Taskset


def list_tasksets() -> KeysView[str]:
    """Return the names of the benchmarks."""
    return BENCHMARKS.keys()


@takes(
    name=choice(*BENCHMARKS),
    train_ways=COUNT,
    train_samples=COUNT,
    test_ways=COUNT,
    test_samples=COUNT,
    num_tasks=int_from(-1),
    device=optional(device),
)
def get_tasksets(
    name: str,
    train_ways: int = 5,
    train_samples: int = 10,
    test_ways: int = 5,
    test_samples: int = 10,
    num_tasks: int = -1,
    root: str | os.PathLike[str] = "~/data",
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> BenchmarkTasksets:
    """Return the tasks of a benchmark for training, validation and testing.

    With the same seed of Python's ``random``, the tasks are those of learn2learn.

    Args:
        name: "omniglot", "mini-imagenet", "tiered-imagenet", "fc100" or "cifarfs".
        train_ways, train_samples: classes of a training task, and samples of each, support and query together.
        test_ways, test_samples: those of validation and testing.
        num_tasks: the number of different tasks in each part; -1 for an endless number.
        root: the folder of the data, as for the classes of :mod:`maml_fast.compat.learn2learn.vision.datasets`.
        device: where to keep the images; ``None`` reads them one by one.
        kwargs: ``data_augmentation`` of the two ImageNets: "normalize", or "lee2019", which needs torchvision.

    Raises:
        FileNotFoundError: the data are missing.
        ValueError: there is no such benchmark, or a number is out of range.
    """
    parts = BENCHMARKS[name](
        train_ways=train_ways,
        train_samples=train_samples,
        test_ways=test_ways,
        test_samples=test_samples,
        root=folder(root),
        device=device,
        **kwargs,
    )
    return BenchmarkTasksets(*(Taskset(*part, num_tasks) for part in zip(*parts, strict=True)))

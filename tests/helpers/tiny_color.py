"""A parted data set in color, tiny, and written in every layout that people have on disk."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Classes = Mapping[str, np.ndarray]  # class -> uint8 [n_images, side, side, 3]
Parts = Mapping[str, Classes]

SIZES = {"train": (4, 3, 5, 4), "val": (3, 3), "test": (4, 3, 3)}  # images of every class


def tiny_parts(side: int = 84) -> Parts:
    random = np.random.RandomState(0)
    return {
        part: {
            f"n{part}{i:02d}": random.randint(0, 256, (n_images, side, side, 3), dtype=np.uint8)
            for i, n_images in enumerate(sizes)
        }
        for part, sizes in SIZES.items()
    }


def shuffled(classes: Classes) -> tuple[np.ndarray, dict[str, list[int]]]:
    """All images, classes mixed, and where each class's are; the classes are in no order."""
    owners = np.repeat(list(classes), [len(images) for images in classes.values()])
    places = np.random.RandomState(1).permutation(len(owners))
    images = np.empty((len(owners), *next(iter(classes.values())).shape[1:]), np.uint8)
    numbers = {}
    for name in reversed(list(classes)):
        numbers[name] = sorted(places[owners == name].tolist())
        images[numbers[name]] = classes[name]
    return images, numbers


def write_caches(root: Path, parts: Parts) -> None:
    for part, classes in parts.items():
        images, numbers = shuffled(classes)
        content = pickle.dumps({"image_data": images, "class_dict": numbers}, 2)
        (root / f"mini-imagenet-cache-{part}.pkl").write_bytes(content)


def write_folders(root: Path, parts: Parts) -> None:
    for part, classes in parts.items():
        for name, images in classes.items():
            (root / part / name).mkdir(parents=True)
            for i, image in enumerate(images):
                Image.fromarray(image).save(root / part / name / f"{i:03d}.png")


def write_lists(root: Path, parts: Parts) -> None:
    (root / "images").mkdir()
    for part, classes in parts.items():
        rows = []
        for name, images in classes.items():
            for i, image in enumerate(images):
                rows.append((f"{name}{i:05d}.png", name))
                Image.fromarray(image).save(root / "images" / rows[-1][0])
        with (root / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("filename", "label"), *reversed(rows)])


def write_arrays(root: Path, parts: Parts, channels_first: bool = False) -> None:
    for part, classes in parts.items():
        images, numbers = shuffled(classes)
        labels = np.empty(len(images), np.int32)
        for label, name in enumerate(classes):
            labels[numbers[name]] = label
        if channels_first:
            images = images.transpose(0, 3, 1, 2)
        np.savez_compressed(root / f"{part}.npz", images=images, labels=labels)


def write_arrays_channels_first(root: Path, parts: Parts) -> None:
    write_arrays(root, parts, channels_first=True)

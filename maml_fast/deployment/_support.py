"""The support set: a folder with a folder of pictures for each class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maml_fast.data._dataset import Progress, Say, say_on_stderr
from maml_fast.data._folder import list_pictures
from maml_fast.deployment._preprocessing import Preprocessing

__all__ = ["SupportSet", "read_support"]


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Pictures, those of the classes in turn: some algorithms learn from a few at a time, in this order."""

    class_names: tuple[str, ...]
    files: tuple[Path, ...]  # [N]
    labels: np.ndarray  # int64 [N]
    pixels: np.ndarray  # uint8 [N, C, H, W]
    preprocessing: Preprocessing

    @property
    def x(self) -> Tensor:
        """The images as the model takes them, float32 [N, C, H, W]."""
        return self.preprocessing.scaled(self.pixels)

    @property
    def y(self) -> Tensor:
        """The class numbers, int64 [N]."""
        return torch.from_numpy(self.labels)

    @property
    def counts(self) -> list[int]:
        """Pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names)).tolist()

    @property
    def sha256(self) -> str:
        """Of the bytes that the model was shown, and their labels."""
        return hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()


def read_support(
    root: Path, preprocessing: Preprocessing, progress: Progress | None = None, say: Say = say_on_stderr
) -> SupportSet:
    """Read ``root/<class>/<picture>``: any number of pictures of a class, of any size and mode.

    A picture that is another's copy is left out, with a line to the user: what is learned from one says nothing of how
    well the other is known.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are fewer than two classes, a class is empty, a picture cannot be read, or two classes have
            the same one; names it.
    """
    files, pictures = list_pictures(root, preprocessing.conversion(progress, say))
    if len(pictures.class_names) < 2:
        raise ValueError(f"{root} holds one class, {pictures.class_names[0]}; there is nothing to tell it from")
    labels = np.repeat(np.arange(len(pictures.counts)), pictures.counts)
    pixels = preprocessing.conversion(progress, say).hold(pictures, "support").images
    kept = _in_turn(_without_copies(files, pixels, labels, say), labels)
    return SupportSet(
        tuple(pictures.class_names), tuple(files[i] for i in kept), labels[kept], pixels[kept], preprocessing
    )


def _in_turn(numbers: list[int], labels: np.ndarray) -> list[int]:
    """The first picture of every class, then the second of those that have one, and so on."""
    of_classes = [[i for i in numbers if labels[i] == label] for label in range(labels.max() + 1)]
    return [i for row in zip_longest(*of_classes) for i in row if i is not None]


def _without_copies(files: list[Path], pixels: np.ndarray, labels: np.ndarray, say: Say) -> list[int]:
    """Numbers of the pictures that are no earlier one's copy."""
    first: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    for i, image in enumerate(pixels):
        earlier = first.setdefault(image.tobytes(), i)
        if earlier == i:
            continue
        if labels[earlier] != labels[i]:
            raise ValueError(
                f"{files[earlier]} and {files[i]} are the same picture, of two classes; leave it in the one it is of"
            )
        copies.append((i, earlier))
    if copies:
        i, earlier = copies[0]
        more = f", and {len(copies) - 1} more" if len(copies) > 1 else ""
        say(f"left out {files[i]}, which is the same picture as {files[earlier].name}{more}")
    left_out = {i for i, _ in copies}
    return [i for i in range(len(files)) if i not in left_out]

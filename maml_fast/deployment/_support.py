"""Read a support set: a folder with a subfolder of pictures for each class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maml_fast.data._dataset import MessageCallback, Progress, print_to_stderr
from maml_fast.data.folder import list_pictures
from maml_fast.deployment._preprocessing import Preprocessing

__all__ = ["SupportSet", "read_support"]


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Pictures in an order in which classes alternate: some algorithms learn from a few at a time, in this order."""

    class_names: tuple[str, ...]
    files: tuple[Path, ...]  # [N]
    labels: np.ndarray  # int64 [N]
    pixels: np.ndarray  # uint8 [N, C, H, W]
    preprocessing: Preprocessing

    @property
    def x(self) -> Tensor:
        """The images as input of the model, float32 [N, C, H, W]."""
        return self.preprocessing.scaled(self.pixels)

    @property
    def y(self) -> Tensor:
        """The class numbers, int64 [N]."""
        return torch.from_numpy(self.labels)

    @property
    def counts(self) -> list[int]:
        """The number of pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names)).tolist()

    @property
    def sha256(self) -> str:
        """Digest of the pixels that the model sees, and of their labels."""
        return hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()


def read_support(
    root: Path, preprocessing: Preprocessing, progress: Progress | None = None, say: MessageCallback = print_to_stderr
) -> SupportSet:
    """Read ``root/<class>/<picture>``: any number of pictures per class, of any size and mode.

    A picture that is a copy of another is left out, with a line to the user: a model that was adapted to one of them
    classifies the other too easily for an estimate of the accuracy.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if there are fewer than two classes, a class is empty, a picture can't be read, or two classes hold
            the same picture; the message names it.
    """
    files, pictures = list_pictures(root, preprocessing.conversion(progress, say))
    if len(pictures.class_names) < 2:
        raise ValueError(f"{root} holds only one class, {pictures.class_names[0]}; at least two are needed")
    labels = np.repeat(np.arange(len(pictures.counts)), pictures.counts)
    pixels = preprocessing.conversion(progress, say).hold(pictures, "support").images
    kept = _alternating(_without_copies(files, pixels, labels, say), labels)
    return SupportSet(
        tuple(pictures.class_names), tuple(files[i] for i in kept), labels[kept], pixels[kept], preprocessing
    )


def _alternating(indices: list[int], labels: np.ndarray) -> list[int]:
    """Reorder indices: the first picture of every class, then the second of every class that has one, and so on."""
    by_class = [[i for i in indices if labels[i] == label] for label in range(labels.max() + 1)]
    return [i for row in zip_longest(*by_class) for i in row if i is not None]


def _without_copies(files: list[Path], pixels: np.ndarray, labels: np.ndarray, say: MessageCallback) -> list[int]:
    """Return the indices of the pictures that are not copies of an earlier one."""
    first: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []
    for i, image in enumerate(pixels):
        earlier = first.setdefault(image.tobytes(), i)
        if earlier == i:
            continue
        if labels[earlier] != labels[i]:
            raise ValueError(f"{files[earlier]} and {files[i]} are the same picture in two classes; remove one of them")
        copies.append((i, earlier))
    if copies:
        i, earlier = copies[0]
        more = f", and {len(copies) - 1} more" if len(copies) > 1 else ""
        say(f"left out {files[i]}, which is the same picture as {files[earlier].name}{more}")
    left_out = {i for i, _ in copies}
    return [i for i in range(len(files)) if i not in left_out]

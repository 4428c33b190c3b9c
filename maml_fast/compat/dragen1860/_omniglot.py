"""The episodes of Omniglot that dragen1860's MAML-Pytorch trains on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maml_fast._arguments import choice, int_from, location, takes
from maml_fast.data import read_omniglot
from maml_fast.data._npy import map_npy

__all__ = ["OmniglotNShot"]

N_TRAINING_CLASSES = 1200
DRAWINGS = 20  # of each character
CACHED = 10  # meta-batches that are drawn at once


class Batch(NamedTuple):
    """A meta-batch; images are float32 from 0 to 1, labels int64."""

    x_spt: np.ndarray  # [T, N*K, 1, H, W]
    y_spt: np.ndarray  # [T, N*K]
    x_qry: np.ndarray  # [T, N*Q, 1, H, W]
    y_qry: np.ndarray  # [T, N*Q]


class OmniglotNShot:
    """Meta-batches of Omniglot as NumPy arrays: 1,200 characters for training, the others for testing.

    The same images and the same ``np.random.seed`` give the same meta-batches as the original.

    Args:
        root: a folder with the original's ``omniglot.npy`` (numbers from 0 to 1), or with what
            :func:`maml_fast.data.read_omniglot` accepts.
        batchsz: tasks in a meta-batch, ``T``.
        n_way: classes of a task, ``N``.
        k_shot: support images of a class, ``K``.
        k_query: query images of a class, ``Q``.
        imgsz: pixels per side.

    Raises:
        FileNotFoundError: Omniglot is not in ``root``.
        TypeError, ValueError: a number is out of range, or the file holds images of another size.
    """

    @takes(root=location, batchsz=int_from(1), n_way=int_from(1), k_shot=int_from(1), k_query=int_from(1))
    @takes(imgsz=int_from(1))
    def __init__(
        self, root: str | os.PathLike[str], batchsz: int, n_way: int, k_shot: int, k_query: int, imgsz: int
    ) -> None:
        if k_shot + k_query > DRAWINGS:
            raise ValueError(f"k_shot + k_query is {k_shot} + {k_query}, but a character has {DRAWINGS} drawings")
        self.resize = imgsz
        self.x = _images(Path(root), imgsz)
        self.x_train, self.x_test = self.x[:N_TRAINING_CLASSES], self.x[N_TRAINING_CLASSES:]
        self.batchsz, self.n_way, self.k_shot, self.k_query = batchsz, n_way, k_shot, k_query
        self.n_cls = len(self.x)
        self.indexes = {"train": 0, "test": 0}
        self.datasets = {"train": self.x_train, "test": self.x_test}
        self.datasets_cache = {mode: self.load_data_cache(images) for mode, images in self.datasets.items()}

    def load_data_cache(self, data_pack: np.ndarray) -> list[Batch]:
        """Draw ten meta-batches from images [classes, 20, 1, H, W]."""
        return [self._draw(data_pack) for _ in range(CACHED)]

    def next(self, mode: str = "train") -> Batch:
        """Return the next meta-batch of "train" or "test"."""
        mode = choice("train", "test")("mode", mode)
        if self.indexes[mode] >= len(self.datasets_cache[mode]):
            self.indexes[mode] = 0
            self.datasets_cache[mode] = self.load_data_cache(self.datasets[mode])
        self.indexes[mode] += 1
        return self.datasets_cache[mode][self.indexes[mode] - 1]

    def _draw(self, images: np.ndarray) -> Batch:
        tasks = [self._draw_task(images) for _ in range(self.batchsz)]
        return Batch(*map(np.stack, zip(*tasks, strict=True)))

    def _draw_task(self, images: np.ndarray) -> Batch:
        """Draw one task, without the first dimension; the draws and their order are the original's."""
        of_class: list[tuple[np.ndarray, np.ndarray]] = []
        for chosen in np.random.choice(len(images), self.n_way, False):
            drawings = images[chosen][np.random.choice(DRAWINGS, self.k_shot + self.k_query, False)]
            of_class.append((drawings[: self.k_shot], drawings[self.k_shot :]))
        support, query = zip(*of_class, strict=True)
        return Batch(*_shuffled(support), *_shuffled(query))


def _shuffled(of_class: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of all classes in a random order, and their labels."""
    images, labels = np.concatenate(of_class), np.repeat(np.arange(len(of_class)), len(of_class[0]))
    order = np.random.permutation(len(images))
    scaled = images[order] / 255.0 if images.dtype == np.uint8 else images[order]
    return scaled.astype(np.float32), labels[order]


def _images(root: Path, size: int) -> np.ndarray:
    """Return all drawings [1623, 20, 1, size, size]: bytes, or numbers from 0 to 1 in the original's file."""
    path = root / "omniglot.npy"
    held: Any = map_npy(path)[0] if path.exists() else None
    if held is None or held.dtype == np.uint8:
        bank = read_omniglot(root, size=size)
        return bank.images.reshape(bank.n_classes, DRAWINGS, *bank.image_shape)
    if held.dtype.kind != "f" or held.ndim != 5 or held.shape[1:] != (DRAWINGS, 1, size, size):
        raise ValueError(
            f"{path} holds {held.dtype} {list(held.shape)}, not images [characters, {DRAWINGS}, 1, {size}, {size}]; "
            "remove it, or set imgsz to its size"
        )
    return held

"""The episodes of mini-ImageNet that dragen1860's MAML-Pytorch trains on."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from maml_fast._arguments import choice, int_from, location, takes
from maml_fast.data._image_lists import read_classes

__all__ = ["MiniImagenet"]

Pictures = tuple[int, list[str]]  # the number of a class, and the names of some of its pictures

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels


class MiniImagenet(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Tasks of mini-ImageNet: ``len(data_set)`` is ``batchsz``, and item i is one task.

    An item has the support images [N*K, 3, H, W], normalized by ImageNet's mean and standard deviation, their labels
    [N*K], and the same of the queries. A DataLoader makes meta-batches of them.

    The same files, ``np.random.seed`` and ``random.seed`` give the same tasks as the original.

    Args:
        root: a folder with ``images/*.jpg`` and ``{mode}.csv``, whose columns are filename and label.
        mode: the name of the .csv: "train", "val" or "test".
        batchsz: tasks that are drawn.
        n_way: classes of a task, ``N``.
        k_shot: support images of a class, ``K``.
        k_query: query images of a class.
        resize: pixels per side.
        startidx: not used: labels of a task are always from 0 to ``N - 1``.

    Raises:
        FileNotFoundError: there is no such .csv.
        TypeError, ValueError: a number is out of range, the .csv is damaged, or it has too few classes or pictures.
    """

    @takes(root=location, mode=choice("train", "val", "test"), batchsz=int_from(1), n_way=int_from(1))
    @takes(k_shot=int_from(1), k_query=int_from(1), resize=int_from(1), startidx=int_from(0))
    def __init__(
        self,
        root: str | os.PathLike[str],
        mode: str,
        batchsz: int,
        n_way: int,
        k_shot: int,
        k_query: int,
        resize: int,
        startidx: int = 0,
    ) -> None:
        self.batchsz, self.n_way, self.k_shot, self.k_query, self.resize = batchsz, n_way, k_shot, k_query, resize
        self.setsz, self.querysz = n_way * k_shot, n_way * k_query
        self.path = Path(root) / "images"
        self.data = list(read_classes(Path(root) / f"{mode}.csv").values())
        self.cls_num = len(self.data)
        self._check_enough(f"{mode}.csv")
        self.create_batch(batchsz)

    def create_batch(self, batchsz: int) -> None:
        """Draw ``batchsz`` tasks; the draws and their order are the original's."""
        self._tasks = [self._draw_task() for _ in range(batchsz)]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        support, query = self._tasks[index]
        classes = sorted(number for number, _ in support)
        random.shuffle(classes)
        labels = {number: label for label, number in enumerate(classes)}
        return *self._read(support, labels), *self._read(query, labels)

    def __len__(self) -> int:
        return self.batchsz

    def _draw_task(self) -> tuple[list[Pictures], list[Pictures]]:
        chosen = np.random.choice(self.cls_num, self.n_way, False)
        np.random.shuffle(chosen)
        support, query = list[Pictures](), list[Pictures]()
        for number in chosen.tolist():
            pictures = self.data[number]
            places = np.random.choice(len(pictures), self.k_shot + self.k_query, False)
            np.random.shuffle(places)
            drawn = [pictures[place] for place in places]
            support.append((number, drawn[: self.k_shot]))
            query.append((number, drawn[self.k_shot :]))
        random.shuffle(support)
        random.shuffle(query)
        return support, query

    def _read(self, of_classes: list[Pictures], labels: dict[int, int]) -> tuple[Tensor, Tensor]:
        images = [self._image(name) for _, names in of_classes for name in names]
        return torch.stack(images), torch.tensor([labels[number] for number, names in of_classes for _ in names])

    def _image(self, name: str) -> Tensor:
        with Image.open(self.path / name) as picture:
            resized = picture.convert("RGB").resize((self.resize, self.resize), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255  # [3, H, W]
        return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    def _check_enough(self, file: str) -> None:
        if self.n_way > self.cls_num:
            raise ValueError(f"n_way is {self.n_way}, but {file} has only {self.cls_num} classes")
        fewest, needed = min(map(len, self.data)), self.k_shot + self.k_query
        if fewest < needed:
            raise ValueError(
                f"k_shot + k_query is {self.k_shot} + {self.k_query} = {needed}, but a class of {file} has {fewest} "
                "pictures"
            )

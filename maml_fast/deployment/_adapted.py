"""A model that was adapted to a folder of pictures, with all that is needed to show it others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from maml_fast._arguments import function, instance, location, many, nn_module, settle, takes, text
from maml_fast.data._dataset import Say, say_on_stderr
from maml_fast.deployment._preprocessing import Preprocessing

__all__ = ["Adapted", "Prediction"]


class Prediction(NamedTuple):
    """What a model says of a picture.

    picture: its path, as it was given.
    class_name, probability: of the most probable class.
    probabilities: of every class, by name; they add up to 1.
    """

    picture: str
    class_name: str
    probability: float
    probabilities: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Adapted:
    """An adapted model.

    Attributes:
        module: from images [N, C, H, W] to logits [N, n_classes], each image by itself; of PyTorch's own layers.
        class_names: in the order of the logits.
        preprocessing: from a picture to what the module takes.
        estimate: how well it knows its classes, as :class:`maml_fast.deployment._judgement.Judgement` describes it.
        provenance: what it was made of, and by what.

    Raises:
        TypeError, ValueError: an attribute is of another kind.
    """

    module: nn.Module
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    estimate: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        settle(self, module=nn_module, class_names=many(text), preprocessing=instance(Preprocessing))
        settle(self, estimate=instance(Mapping), provenance=instance(Mapping))
        if len(set(self.class_names)) < max(2, len(self.class_names)):
            raise ValueError(f"class_names must be two or more, all different, got {self.class_names}")

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Of every class, [N, n_classes], for images [N, C, H, W] as preprocessing scales them.

        One goes through after another, so that not even rounding depends on which others there are.
        """
        return torch.cat([self.module(image[None]) for image in images]).softmax(dim=1)

    @takes(pictures=many(location), say=function())
    def predict(self, pictures: Iterable[Path | str], say: Say = say_on_stderr) -> list[Prediction]:
        """What the pictures in these files are.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: one is no picture, or can't be used; names it.
        """
        files = [Path(picture) for picture in pictures]
        return self.predictions(files, self.pixels(files, say))

    def pixels(self, files: Sequence[Path], say: Say = say_on_stderr) -> np.ndarray:
        """The pictures in these files as the model sees them, but not yet scaled: uint8 [N, C, H, W]."""
        missing = [file for file in files if not file.is_file()]
        if missing or not files:
            raise FileNotFoundError(f"there is no picture {missing[0]}" if missing else "there are no pictures")
        conversion = self.preprocessing.conversion(say=say)  # one, which tells of several frames once
        return np.stack([conversion.decode(file) for file in files])

    def predictions(self, pictures: Iterable[Path], pixels: np.ndarray) -> list[Prediction]:
        """What pictures are that have become pixels already."""
        rows = self.probabilities(self.preprocessing.scaled(pixels)).tolist()
        found = []
        for picture, row in zip(pictures, rows, strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            named = dict(zip(self.class_names, row, strict=True))
            found.append(Prediction(str(picture), self.class_names[best], row[best], named))
        return found

    def described(self) -> dict[str, Any]:
        """All but the module, as plain values."""
        return {
            "class_names": list(self.class_names),
            "preprocessing": self.preprocessing.described(),
            "estimate": dict(self.estimate),
            "provenance": dict(self.provenance),
        }

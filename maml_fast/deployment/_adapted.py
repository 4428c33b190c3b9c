"""A model adapted to a folder of pictures, with everything needed to classify other picture files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from maml_fast._arguments import check_fields, function, instance, location, many, nn_module, takes, text
from maml_fast.data._dataset import MessageCallback, print_to_stderr
from maml_fast.deployment._preprocessing import Preprocessing

__all__ = ["Adapted", "Prediction"]


class Prediction(NamedTuple):
    """A model's prediction for one picture.

    Attributes:
        picture: path of the picture, as passed in.
        class_name: name of the most probable class.
        probability: probability of that class.
        probabilities: probability of every class, by class name; they add up to 1.
    """

    picture: str
    class_name: str
    probability: float
    probabilities: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model adapted to a set of classes, with its preprocessing and provenance.

    Attributes:
        module: maps images [N, C, H, W] to logits [N, n_classes], each image independently of the others; it is made
            of PyTorch's own layers.
        class_names: names of the classes, in the order of the logits.
        preprocessing: turns a picture file into the module's input.
        estimate: leave-one-out estimate of the accuracy, as ``described()`` of
            :class:`maml_fast.deployment._judgement.Judgement` returns it; empty if it was not made.
        provenance: the run, pictures and software versions that the model was made from.

    Raises:
        TypeError, ValueError: if an attribute has the wrong type, or ``class_names`` holds fewer than two names or a
            name twice.
    """

    module: nn.Module
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    estimate: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_fields(self, module=nn_module, class_names=many(text), preprocessing=instance(Preprocessing))
        check_fields(self, estimate=instance(Mapping), provenance=instance(Mapping))
        if len(set(self.class_names)) < max(2, len(self.class_names)):
            raise ValueError(f"class_names must be two or more, all different, got {self.class_names}")

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return class probabilities [N, n_classes] of images [N, C, H, W], scaled as by :attr:`preprocessing`.

        Images go through the module one at a time, so that a prediction does not depend on the other images, not even
        by rounding.
        """
        return torch.cat([self.module(image[None]) for image in images]).softmax(dim=1)

    @takes(pictures=many(location), say=function())
    def predict(self, pictures: Iterable[Path | str], say: MessageCallback = print_to_stderr) -> list[Prediction]:
        """Classify the pictures in these files.

        Args:
            pictures: paths of the picture files.
            say: called with a line for the user.

        Raises:
            FileNotFoundError: if a file does not exist, or there are no files.
            ValueError: if a file is not a picture or can't be used; the message names it.
        """
        files = [Path(picture) for picture in pictures]
        return self.predictions(files, self.pixels(files, say))

    def pixels(self, files: Sequence[Path], say: MessageCallback = print_to_stderr) -> np.ndarray:
        """Return the pictures in these files as the model sees them, before scaling: uint8 [N, C, H, W]."""
        missing = [file for file in files if not file.is_file()]
        if missing or not files:
            raise FileNotFoundError(f"there is no picture {missing[0]}" if missing else "there are no pictures")
        conversion = self.preprocessing.conversion(say=say)  # a single one: it reports multi-frame files only once
        return np.stack([conversion.decode(file) for file in files])

    def predictions(self, pictures: Iterable[Path], pixels: np.ndarray) -> list[Prediction]:
        """Classify pictures from their pixels, uint8 [N, C, H, W]; ``pictures`` are the N paths to report."""
        rows = self.probabilities(self.preprocessing.scaled(pixels)).tolist()
        found = []
        for picture, row in zip(pictures, rows, strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            named = dict(zip(self.class_names, row, strict=True))
            found.append(Prediction(str(picture), self.class_names[best], row[best], named))
        return found

    def described(self) -> dict[str, Any]:
        """Return everything except the module as plain values."""
        return {
            "class_names": list(self.class_names),
            "preprocessing": self.preprocessing.described(),
            "estimate": dict(self.estimate),
            "provenance": dict(self.provenance),
        }

"""FC100."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from maml_fast._arguments import flag, takes
from maml_fast.compat.learn2learn.vision.datasets._image_set import (
    MODE,
    PARTS,
    ImageSet,
    folder,
    images_of_banks,
    picture,
)
from maml_fast.data._safe_pickle import read_pickle

__all__ = ["FC100"]


class FC100(ImageSet):
    """FC100 (Oreshkin et al. 2018) as pictures of 32x32 pixels.

    Args:
        root: a folder that holds ``FC100_{train,val,test}.pickle``, which learn2learn left there, or a layout of
            ``maml_fast.data.load("fc100", root)``. No code in the files is run.
        mode: "train", "validation" or "test".
        transform: called with every picture.
        target_transform: called with its label.
        download: has no effect: nothing is downloaded.

    Raises:
        FileNotFoundError: the data are missing.
        ValueError: a file is damaged, or there is no such mode.
    """

    @takes(mode=MODE, download=flag)
    def __init__(
        self,
        root: str | os.PathLike[str],
        mode: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
    ) -> None:
        self.root = folder(root)
        self.mode = mode
        file = self.root / f"FC100_{PARTS[mode]}.pickle"
        self.images: Any
        if file.is_file():
            content = read_pickle(file)
            self.images, labels = content["data"], content["labels"]
            self._picture: Callable[[np.ndarray], Image.Image] = Image.fromarray
        else:
            self.images, labels = images_of_banks("fc100", self.root, mode, file.name)
            self._picture = picture
        super().__init__([int(label) for label in labels], transform, target_transform)

    def read_image(self, index: int) -> Image.Image:
        """Return a picture."""
        return self._picture(self.images[index])

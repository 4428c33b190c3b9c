"""FC100."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maml_fast.compat.learn2learn.vision.datasets._image_set import PartedImageSet
from maml_fast.data._safe_pickle import read_pickle

__all__ = ["FC100"]


class FC100(PartedImageSet):
    """FC100 (Oreshkin et al. 2018) as pictures of 32x32 pixels.

    The root holds ``FC100_{train,val,test}.pickle``, which learn2learn left there, or a layout of
    ``maml_fast.data.load("fc100", root)``. No code in the files is run.
    """

    bank, files = "fc100", "FC100_{part}.pickle"

    def read_files(self, path: Path) -> tuple[Any, Iterable[int]]:
        """Return the images [N, H, W, C] of a pickle."""
        if not path.is_file():
            return [], []
        content = read_pickle(path)
        return content["data"], content["labels"]

    def image_of_stored(self, stored: np.ndarray) -> Image.Image:
        """Return a picture."""
        return Image.fromarray(stored)

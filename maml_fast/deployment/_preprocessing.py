"""What is done to a picture before a model sees it: in training and in deployment the same, by the same code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_fast._arguments import choice, settle, shown, whole
from maml_fast.data._conversion import MOST_SIZE, Conversion
from maml_fast.data._dataset import Progress, Say, say_on_stderr
from maml_fast.data._numpy_sampler import SCALES, scale_table

__all__ = ["Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """From a picture file to what the model takes.

    The picture is turned as its EXIF orientation says, made gray or RGB, and resized by Pillow's bicubic filter without
    regard to its proportions; then its bytes are scaled.

    Attributes:
        size: pixels per side.
        channels: "L" (gray) or "RGB".
        scale: what a byte ``x`` becomes: "unit" x / 255, "raw" x, "inverted" 1 - x / 255.

    Raises:
        TypeError, ValueError: an attribute is none of these.
    """

    size: int
    channels: str
    scale: str

    def __post_init__(self) -> None:
        settle(self, size=whole(1, MOST_SIZE), channels=choice("L", "RGB"), scale=choice(*SCALES))

    @staticmethod
    def read(content: Any) -> Preprocessing:
        """Back from :meth:`described`; ValueError where it is something else."""
        if not isinstance(content, Mapping) or content.keys() != {"size", "channels", "scale"}:
            raise ValueError(f"preprocessing must be size, channels and scale, got {shown(content)}")
        return Preprocessing(**content)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return len(self.channels), self.size, self.size

    def conversion(self, progress: Progress | None = None, say: Say = say_on_stderr) -> Conversion:
        """What makes bytes of pictures, as it does for training."""
        return Conversion(self.size, self.channels, progress, say)

    def scaled(self, pixels: np.ndarray) -> Tensor:
        """What the model takes, float32, of bytes of any shape."""
        return torch.from_numpy(scale_table(self.scale)[pixels])

    def described(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

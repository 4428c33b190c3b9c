"""The preprocessing of pictures, which training and deployment share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_fast._arguments import check_fields, choice, int_from, shown
from maml_fast.data._conversion import MAX_SIZE, Conversion
from maml_fast.data._dataset import MessageCallback, Progress, print_to_stderr
from maml_fast.data._numpy_sampler import SCALES, scale_table

__all__ = ["Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture file becomes the input of a model.

    The picture is rotated by its EXIF orientation, converted to gray or RGB, and resized to a square with Pillow's
    bicubic filter, without keeping its aspect ratio. Its bytes are then scaled.

    Attributes:
        size: pixels per side.
        channels: "L" (gray) or "RGB".
        scale: what a byte ``x`` becomes: x / 255 for "unit", x for "raw", 1 - x / 255 for "inverted".

    Raises:
        TypeError, ValueError: if an attribute is not one of these.
    """

    size: int
    channels: str
    scale: str

    def __post_init__(self) -> None:
        check_fields(self, size=int_from(1, MAX_SIZE), channels=choice("L", "RGB"), scale=choice(*SCALES))

    @staticmethod
    def read(content: Any) -> Preprocessing:
        """Make the preprocessing that :meth:`described` returned as plain values.

        Raises:
            TypeError, ValueError: if ``content`` is anything else.
        """
        if not isinstance(content, Mapping) or content.keys() != {"size", "channels", "scale"}:
            raise ValueError(f"preprocessing must be size, channels and scale, got {shown(content)}")
        return Preprocessing(**content)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of an image."""
        return len(self.channels), self.size, self.size

    def conversion(self, progress: Progress | None = None, say: MessageCallback = print_to_stderr) -> Conversion:
        """Return the conversion from picture files to bytes, the same as in training."""
        return Conversion(self.size, self.channels, progress, say)

    def scaled(self, pixels: np.ndarray) -> Tensor:
        """Scale bytes of any shape to the model's input, float32."""
        return torch.from_numpy(scale_table(self.scale)[pixels])

    def described(self) -> dict[str, Any]:
        """Return the attributes as plain values."""
        return asdict(self)

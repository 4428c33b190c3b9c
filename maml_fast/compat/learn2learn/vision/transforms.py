"""Task transforms of images."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maml_fast._arguments import many, number, takes
from maml_fast.compat.learn2learn.data.transforms import TaskDescription

__all__ = ["RandomClassRotation"]


class RandomClassRotation:
    """Rotates the images of a task, counterclockwise.

    An angle is drawn for every class. As in learn2learn, where the same seed gives the same tasks, all images of the
    task are rotated by that of the last image's class.

    Args:
        dataset: the ``MetaDataset`` that the tasks are made of.
        degrees: the angles to draw from.
    """

    @takes(degrees=many(number()))
    def __init__(self, dataset: Any, degrees: Sequence[float]) -> None:
        self.dataset = dataset
        self.degrees = degrees

    def __call__(self, task_description: TaskDescription) -> TaskDescription:
        """Return the task, with rotated images."""
        angles: dict[Any, float] = {}
        for each in task_description:
            label = self.dataset.indices_to_labels[each.index]
            if label not in angles:
                angles[label] = random.choice(self.degrees)
            angle = angles[label]
        for each in task_description:
            each.transforms.append(partial(_with_rotated_image, angle))
        return task_description


def _with_rotated_image(angle: float, sample: Sequence[Any]) -> tuple[Any, Any]:
    torch.empty(1).uniform_(angle, angle)  # torchvision's RandomRotation draws a number here
    return _rotated(sample[0], angle), sample[1]


def _rotated(image: Any, angle: float) -> Any:
    """Rotate a picture, or a tensor [C, H, W], about its center; the corners become black."""
    if isinstance(image, Image.Image):
        return image.rotate(angle)
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    dtype = image.dtype if image.is_floating_point() else torch.float32
    y, x = (torch.arange(extent, dtype=dtype, device=image.device) - (extent - 1) / 2 for extent in (height, width))
    across = x * cos - y[:, None] * sin  # [H, W], where a pixel of the result comes from
    down = x * sin + y[:, None] * cos
    grid = torch.stack([across / (width / 2), down / (height / 2)], dim=-1)
    turned: Tensor = F.grid_sample(image[None].to(dtype), grid[None], mode="nearest", align_corners=False)[0]
    return turned.to(image.dtype)

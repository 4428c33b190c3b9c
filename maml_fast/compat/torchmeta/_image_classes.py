"""Sets of classes of images, as Pillow's images, and the transform that makes tensors of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maml_fast._arguments import flag, int_from, location, takes
from maml_fast.compat.torchmeta._image_sources import Source
from maml_fast.compat.torchmeta._meta_datasets import OPTIONAL_FUNCTION, ClassDataset
from maml_fast.compat.torchmeta._tasks import Dataset, Transform

__all__ = ["ImageClasses", "ResizedToTensor", "takes_image_options"]

takes_image_options = takes(
    root=location,
    num_classes_per_task=int_from(1),
    transform=OPTIONAL_FUNCTION,
    target_transform=OPTIONAL_FUNCTION,
    dataset_transform=OPTIONAL_FUNCTION,
    download=flag,
)


class ImageClasses(ClassDataset):
    def __init__(self, labels: Sequence[str], images: Source, transform: Transform | None, **options: Any) -> None:
        super().__init__(**options)
        self.labels, self.data, self.transform = labels, images, transform

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Dataset:
        name = self.labels[index % self.num_classes]
        transform, target_transform = self.get_transform(index, self.transform), self.get_target_transform(index)
        return _ClassOfImages(index, self.data[name], name, transform, target_transform)


class _ClassOfImages(Dataset):
    def __init__(
        self, index: int, images: Any, name: str, transform: Transform | None, target_transform: Transform | None
    ) -> None:
        super().__init__(index, transform, target_transform)
        self._images, self._name = images, name

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.transformed(Image.fromarray(np.ascontiguousarray(self._images[index])), self._name)


class ResizedToTensor:
    """Turns a square image of Pillow's into a tensor [C, size, size] from 0 to 1, like torchvision's transforms."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = np.array(image.resize((self.size, self.size), Image.Resampling.BILINEAR))
        channels_last = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None])
        return channels_last.permute(2, 0, 1).contiguous().float() / 255

    def __repr__(self) -> str:
        return f"ResizedToTensor({self.size})"

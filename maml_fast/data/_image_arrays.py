"""Readers for parts of a data set in one file: a pickled cache of mini-ImageNet, or a .npz of images and labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maml_fast.data._bank import ImageBank
from maml_fast.data._conversion import Conversion, Pictures
from maml_fast.data._safe_pickle import read_pickle

__all__ = ["read_image_cache", "read_npz"]

MAX_EXPANSION = 200  # how many times larger than its file the contents of a .npz may be

_CACHE = "a cache of mini-ImageNet is a dict of image_data, uint8 [N, H, W, C], and class_dict, {class: [numbers]}"
_NPZ = "it needs images, uint8 [N, H, W, C] or [N, C, H, W], and labels, integers [N]"


def read_image_cache(path: Path, conversion: Conversion, name: str) -> ImageBank:
    """Read a pickled ``{"image_data": uint8 [N, H, W, C], "class_dict": {class: [numbers of its images]}}``.

    This is the format of Ren et al. (2018), which torchmeta and learn2learn also read. No code in the pickle is run.
    Classes are sorted by name; images keep their order.

    Args:
        path: the file; it is read once, in full.
        conversion: size and channels of the bank's images.
        name: the bank's name.

    Raises:
        ValueError: the file is damaged, has another format, or needs functions that arrays do not need.
        RuntimeError: the cache folder is not writable.
    """

    def read() -> Pictures:
        content = read_pickle(path)
        try:
            return _cached_pictures(content, conversion)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {_CACHE}") from None

    return conversion.keep([path], read, name)


def read_npz(path: Path, conversion: Conversion, name: str) -> ImageBank:
    """Read a .npz of ``images``, uint8 ``[N, H, W, C]`` or ``[N, C, H, W]``, and ``labels``, integers ``[N]``.

    C is 1 or 3; if both dimensions could be the channels, the last one is. Classes are sorted by label and named after
    the file, as in ``train/7``: the same label in another part means another class. Images keep their order.

    Args:
        path: the file; it is read once, in full.
        conversion: size and channels of the bank's images.
        name: the bank's name.

    Raises:
        ValueError: the file is damaged, or an array is missing or has another type or shape.
        RuntimeError: the cache folder is not writable.
    """

    def read() -> Pictures:
        arrays = _arrays(path)
        try:
            return _labeled_pictures(arrays, path.stem, conversion)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {_NPZ}") from None

    return conversion.keep([path], read, name)


def _cached_pictures(content: Any, conversion: Conversion) -> Pictures:
    if not isinstance(content, dict) or not {"image_data", "class_dict"} <= content.keys():
        held = f"a dict of {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"it holds {held}")
    classes = content["class_dict"]
    if not isinstance(classes, dict) or not all(isinstance(name, str) for name in classes):
        raise ValueError("class_dict is not a dict of class names")
    images = _channels_last("image_data", content["image_data"])
    numbers = {name: _numbers(name, classes[name], len(images)) for name in sorted(classes)}
    return _pictures(images, numbers, conversion)


def _numbers(name: str, values: Any, n_images: int) -> np.ndarray:
    numbers = np.asarray(values)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not numbers.size:
        raise ValueError(f"class {name!r} has no list of image numbers")
    outside = numbers[(numbers < 0) | (numbers >= n_images)]
    if outside.size:
        raise ValueError(f"class {name!r} has image {outside[0]}, but there are {n_images}")
    return numbers.astype(np.int64)


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            size = sum(member.file_size for member in archive.zip.infolist())
            if size > MAX_EXPANSION * path.stat().st_size:
                raise ValueError(f"it unpacks to {size:,} bytes, too many for pictures in so small a file")
            return {name: archive[name] for name in archive.files if name in ("images", "labels")}
    except Exception as error:  # damaged archives raise many kinds of errors
        raise ValueError(f"{path} cannot be read as a .npz: {error or type(error).__name__}; {_NPZ}") from error


def _labeled_pictures(arrays: Mapping[str, np.ndarray], part: str, conversion: Conversion) -> Pictures:
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise ValueError(f"it has no array {missing[0]!r}")
    images, labels = _channels_last("images", arrays["images"]), arrays["labels"]
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}, for {len(images)} images")
    return _pictures(
        images, {f"{part}/{label}": np.flatnonzero(labels == label) for label in np.unique(labels)}, conversion
    )


def _channels_last(what: str, images: Any) -> np.ndarray:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        held = f"{images.dtype} of shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{what} is {held}")
    if images.shape[3] in (1, 3):
        return images
    if images.shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    raise ValueError(f"{what} has shape {images.shape}, without 1 or 3 channels")


def _pictures(images: np.ndarray, numbers: Mapping[str, np.ndarray], conversion: Conversion) -> Pictures:
    """Order the images ``[N, H, W, C]`` by class."""
    from PIL import Image

    from maml_fast.data._pictures import fitted

    if not numbers:
        raise ValueError("there are no classes")
    order = np.concatenate(list(numbers.values()))
    owners = np.bincount(order, minlength=len(images))
    if (owners > 1).any():
        raise ValueError(f"image {owners.argmax()} is in more than one class, or twice in one")
    if (owners == 0).any():
        conversion.say(f"left out {(owners == 0).sum():,} images that are in no class")
    if images.shape[3] == 1:
        images = images[..., 0]  # [N, H, W], Pillow's layout for gray pictures

    def image(i: int) -> np.ndarray:
        return fitted(Image.fromarray(images[order[i]]), conversion.channels, conversion.size)

    return Pictures(list(numbers), [len(each) for each in numbers.values()], image)

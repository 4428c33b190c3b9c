"""Where the images of classes come from: maml_fast's banks, or torchmeta's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maml_fast.data import ImageBank

__all__ = ["BankSource", "Hdf5Source", "Source"]


class Source(Protocol):
    """Holds the images of each class, [n, H, W] or [n, H, W, 3], by the name of the class."""

    def __getitem__(self, name: str) -> Any:
        """Return the images of a class, as an array or a data set of h5py."""


class BankSource:
    """The images of a bank, [n, H, W] or [n, H, W, 3]; ``inverted`` makes black ink on white white on black."""

    def __init__(self, bank: ImageBank, inverted: bool = False) -> None:
        self._bank, self._inverted = bank, inverted
        self._places = {name: i for i, name in enumerate(bank.class_names)}

    def __getitem__(self, name: str) -> np.ndarray:
        images = np.moveaxis(self._bank[self._places[name]], 1, -1)
        images = images[..., 0] if images.shape[-1] == 1 else images
        return 255 - images if self._inverted else images


class Hdf5Source:
    """The images in a file that torchmeta has made. It is opened at first use, in each process."""

    def __init__(self, path: Path, group: str = "/") -> None:
        try:
            import h5py  # noqa: F401
        except ModuleNotFoundError:
            raise ModuleNotFoundError(f"{path} needs h5py: pip install h5py; or move the file away") from None
        self._path, self._group = path, group
        self._file: Any = None

    def __getitem__(self, name: str) -> Any:
        import h5py

        if self._file is None:
            self._file = h5py.File(self._path, "r")
        return self._file[self._group][name]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}

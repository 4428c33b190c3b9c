"""Omniglot, background and evaluation set together."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from maml_fast._arguments import flag, takes
from maml_fast.compat.learn2learn.vision.datasets._image_set import ImageSet, folder
from maml_fast.data._omniglot import find_sources
from maml_fast.data._omniglot_layout import OMNIGLOT, Layout
from maml_fast.data._omniglot_source import Source, check_complete, listing

__all__ = ["FullOmniglot"]

Read = Callable[[], bytes]


class FullOmniglot(ImageSet):
    """The 1623 characters of Omniglot (Lake et al. 2015), 20 drawings each, as pictures of 105x105 gray pixels.

    Characters and drawings of the folders ``omniglot-py/images_background`` and ``images_evaluation``, which
    torchvision leaves, come in the order in which the system lists them, as there: labels are the same as in
    learn2learn, on the same disk. All other layouts of :func:`maml_fast.data.read_omniglot` are sorted.

    Args:
        root: the folder of the data.
        transform: called with every picture.
        target_transform: called with its label, 0 to 1622.
        download: whether to download archives that are missing.
        layout: the archives, alphabets and characters that must exist.

    Raises:
        FileNotFoundError: an archive is missing.
        ValueError: a character or a drawing is missing or damaged.
        RuntimeError: a download fails.
    """

    @takes(download=flag)
    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
        layout: Layout = OMNIGLOT,
    ) -> None:
        self.root = folder(root)
        sources = _sources(self.root, layout, download)
        characters = [drawings for source in sources for drawings in _read(source, layout)]
        self._drawings = [read for drawings in characters for read in drawings]
        labels = [label for label, drawings in enumerate(characters) for _ in drawings]
        super().__init__(labels, transform, target_transform)

    def read_image(self, index: int) -> Image.Image:
        """Return a drawing, black on white."""
        return Image.open(io.BytesIO(self._drawings[index]())).convert("L")


def _sources(root: Path, layout: Layout, download: bool) -> list[Source]:
    torchvisions = [Source(archive, root / "omniglot-py" / archive.name) for archive in layout.archives]
    if all(source.path.is_dir() for source in torchvisions):
        return torchvisions
    return find_sources(root, layout, download)


def _read(source: Source, layout: Layout) -> Iterator[Sequence[Read]]:
    """Yield the drawings of each character."""
    with listing(source) as drawings:
        check_complete(drawings, source, layout)
        if source.path.parent.name == "omniglot-py" and source.path.is_dir():
            yield from _as_listed(source.path)
        elif source.path.is_dir():
            yield from ([drawing.read for drawing in drawings[name]] for name in sorted(drawings))
        else:  # read now, because processes that share an open archive disturb each other
            yield from ([partial(bytes, drawing.read()) for drawing in drawings[name]] for name in sorted(drawings))


def _as_listed(top: Path) -> Iterator[Sequence[Read]]:
    for alphabet in _folders(top):
        for character in _folders(alphabet):
            names = [name for name in os.listdir(character) if name.endswith(".png")]
            yield [(character / name).read_bytes for name in names]


def _folders(path: Path) -> list[Path]:
    return [path / name for name in os.listdir(path) if (path / name).is_dir()]

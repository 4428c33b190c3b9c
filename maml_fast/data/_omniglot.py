"""Omniglot, converted once into a .npy of bytes and memory-mapped from there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from maml_fast._arguments import flag, function, instance, int_from, location, optional, takes
from maml_fast.data._bank import ImageBank
from maml_fast.data._dataset import DataSet, MessageCallback, Options, Progress, print_to_stderr
from maml_fast.data._download import download as fetch
from maml_fast.data._files import fingerprint, stamps, write_npy
from maml_fast.data._omniglot_layout import OMNIGLOT, SPLITS, Layout
from maml_fast.data._omniglot_source import Source, find_source, read_drawings
from maml_fast.data._sealed import is_sound, seal
from maml_fast.data._splits import read_split
from maml_fast.native import cache_folder

__all__ = ["find_sources", "load_omniglot", "prepare_omniglot", "read_omniglot"]

_TUTORIALS_NAMES = ("omniglot.npy", "omniglot_data.npy")

_checked = takes(
    root=location, size=int_from(1), progress=optional(function()), say=function(), layout=instance(Layout)
)


@_checked
@takes(out=optional(location), download=flag)
def prepare_omniglot(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    size: int = 28,
    download: bool = False,
    progress: Progress | None = None,
    say: MessageCallback = print_to_stderr,
    layout: Layout = OMNIGLOT,
) -> Path:
    """Write Omniglot to one .npy file: uint8 ``(1623, 20, 1, size, size)``, black ink on white.

    Order and pixels are those of the tutorial: background before evaluation, then alphabets, characters and files
    sorted; pictures are converted to gray and then resized with Pillow's bicubic filter. The .npy appears under its
    name only when it is complete.

    Args:
        root: the folder that contains ``images_background.zip`` and ``images_evaluation.zip``, or the folders unpacked
            from them; torchvision's ``omniglot-py`` and a clone of the official repository work too.
        out: the file to write, or a folder for it; ``root/omniglot.npy`` if None (``omniglot_84.npy`` for size 84).
        size: pixels per side.
        download: whether to download archives that are missing from `root`, and verify them.
        progress: called with (characters done, 1623), and during downloads with (bytes done, bytes in total).
        say: called with a message for the user at the end.
        layout: the archives, alphabets and characters that must exist.

    Returns:
        The path of the file written.

    Raises:
        FileNotFoundError: an archive is missing.
        TypeError: an argument has the wrong type.
        ValueError: a number is out of range, `out` is neither a folder nor a .npy, or an archive or drawing is missing,
            incomplete, damaged or not part of Omniglot.
        RuntimeError: a download or a write fails.
    """
    root = Path(root)
    path = root if out is None else Path(out)
    if out is None or path.is_dir():
        path = path / _file_name(size)
    elif path.suffix != ".npy":
        raise ValueError(f"out must be a folder or end in .npy, got {path}")
    started = time.perf_counter()
    sources = find_sources(root, layout, download, progress)
    n_classes = len(layout.class_names)
    characters = _reported(read_drawings(sources, layout, size), n_classes, progress)
    write_npy(path, (n_classes, layout.drawings, 1, size, size), characters)
    seconds = time.perf_counter() - started
    say(f"wrote {path}: {n_classes:,} characters x {layout.drawings} drawings, in {seconds:.1f} s")
    return path


@_checked
def read_omniglot(
    root: str | os.PathLike[str],
    *,
    size: int = 28,
    progress: Progress | None = None,
    say: MessageCallback = print_to_stderr,
    layout: Layout = OMNIGLOT,
) -> ImageBank:
    """Map Omniglot, all 1623 characters in the tutorial's order; prepare it first if there is no .npy yet.

    The .npy is looked for in `root`, also under the tutorial's file names. If it has to be made, it is written to the
    cache folder (``MAML_FAST_CACHE``), because `root` is the user's; only `prepare_omniglot` writes to `root`.

    Args:
        root: as for `prepare_omniglot`.
        size: pixels per side.
        progress: called with (characters done, 1623) during preparation.
        say: called with messages for the user before and after preparation.
        layout: the archives, alphabets and characters that must exist.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as `prepare_omniglot`, or the .npy is damaged or has another shape.
    """
    path = _prepared(Path(root), size, progress, say, layout)
    bank = ImageBank.from_npy(path)
    expected = (len(layout.class_names), layout.drawings, (1, size, size))
    found = (bank.n_classes, int(bank.counts[0]), bank.image_shape)
    if found != expected:
        raise ValueError(
            f"{path} holds {found[0]} classes x {found[1]} images of {found[2]}, but Omniglot has {expected[0]} x "
            f"{expected[1]} of {expected[2]}; remove it and prepare again"
        )
    return replace(bank, class_names=layout.class_names, name="omniglot")


def load_omniglot(options: Options) -> DataSet:
    """Load data set "omniglot" with split "tutorial" (default), "vinyals" or "finn", or the split files of a folder."""
    options.allow("omniglot", "root", "split", "image_size")
    root = options.required_root("omniglot", "the folder of images_background.zip and images_evaluation.zip")
    asked = options.split or "tutorial"
    if asked in SPLITS:
        split = SPLITS[asked]()
    elif Path(asked).is_dir():
        split = read_split(Path(asked))
    else:
        raise ValueError(f"split must be {', '.join(SPLITS)} or a folder of split files; got {asked!r}")
    size = 28 if options.image_size is None else options.image_size
    return DataSet.of(read_omniglot(root, size=size, progress=options.progress, say=options.say), split)


def _file_name(size: int) -> str:
    return "omniglot.npy" if size == 28 else f"omniglot_{size}.npy"


def _prepared(root: Path, size: int, progress: Progress | None, say: MessageCallback, layout: Layout) -> Path:
    """Return the path of the prepared .npy: in `root`, else in the cache, where it is made if necessary."""
    names = _TUTORIALS_NAMES if size == 28 else (_file_name(size),)
    for name in names:
        for path in (root / name, root / "omniglot" / name):
            if path.exists():
                return path
    sources = find_sources(root, layout)
    stamped = stamps(source.path.resolve() for source in sources)
    cached = cache_folder() / f"omniglot-{fingerprint(stamped, size)}.npy"
    if not is_sound(cached):
        say(f"preparing Omniglot, once, into the cache folder {cached.parent}")
        prepare_omniglot(root, cached, size=size, progress=progress, say=say, layout=layout)
        seal(cached)
    return cached


def find_sources(root: Path, layout: Layout, download: bool = False, progress: Progress | None = None) -> list[Source]:
    """Find every archive; if `download` is set, download those that are missing."""
    sources = []
    for archive in layout.archives:
        source = find_source(root, archive)
        if source is None and download:
            path = root / f"{archive.name}.zip"
            fetch(f"{layout.url}/{path.name}", path, archive.md5, progress=progress)
            source = Source(archive, path)
        if source is None:
            raise FileNotFoundError(
                f"neither {archive.name}.zip nor a folder {archive.name} is in {root}; put the archive there, or fetch "
                f"it with: maml-fast prepare omniglot --root {root} --download"
            )
        sources.append(source)
    return sources


def _reported(characters: Iterator[np.ndarray], n_classes: int, progress: Progress | None) -> Iterator[np.ndarray]:
    for done, drawings in enumerate(characters, start=1):
        yield drawings
        if progress:
            progress(done, n_classes)

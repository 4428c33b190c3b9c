"""Reads the drawings of Omniglot from a .zip archive, without unpacking it, or from a folder unpacked from it."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from maml_fast.data._omniglot_layout import Archive, Layout, class_names

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Source", "check_complete", "find_source", "listing", "read_drawings"]

_SUBFOLDERS = ("", "omniglot", "omniglot-py", "python", "omniglot/python")  # ours, torchvision's, Omniglot's repository
_LARGEST_DRAWING = 1 << 16  # bytes; a real drawing has about 300
_LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}


class Source(NamedTuple):
    """The location of one archive's drawings: its .zip, or the folder unpacked from it."""

    archive: Archive
    path: Path


class Drawing(NamedTuple):
    where: str  # its name in error messages
    read: Callable[[], bytes]


Drawings = dict[str, list[Drawing]]  # "Alphabet/characterNN" -> its drawings, sorted by file name


def find_source(root: Path, archive: Archive) -> Source | None:
    """Look for an archive, or the folder unpacked from it, in `root` and in the subfolders that other tools use."""
    for folder in (root / subfolder for subfolder in _SUBFOLDERS):
        if (zipped := folder / f"{archive.name}.zip").is_file():
            return Source(archive, zipped)
        if (unpacked := folder / archive.name).is_dir():
            return Source(archive, unpacked)
    return None


def read_drawings(sources: Sequence[Source], layout: Layout, size: int) -> Iterator[np.ndarray]:
    """Yield the drawings of each character in turn: uint8 ``[drawings, 1, size, size]``.

    The names of all drawings are checked before the first drawing is decoded.

    Raises:
        ValueError: a character or one of its drawings is missing, unexpected or damaged, or unpacking a member of an
            archive would write outside the target folder.
    """

    from maml_fast.data._pictures import decode  # imports Pillow

    def check(image: Image.Image) -> None:
        if image.size != (layout.drawing_size,) * 2:
            (width, height), side = image.size, layout.drawing_size
            raise ValueError(f"it has {width} x {height} pixels, but drawings of Omniglot have {side} x {side}")

    with ExitStack() as stack:
        listings = [stack.enter_context(listing(source)) for source in sources]
        for source, drawings in zip(sources, listings, strict=True):
            check_complete(drawings, source, layout)
        for source, drawings in zip(sources, listings, strict=True):
            for name in class_names(source.archive):
                yield np.stack([decode(io.BytesIO(d.read()), d.where, "L", size, check) for d in drawings[name]])


def check_complete(drawings: Drawings, source: Source, layout: Layout) -> None:
    expected = set(class_names(source.archive))
    faults = [f"{name} is missing or empty" for name in sorted(expected - drawings.keys())]
    faults += [f"{name} is not a character of {source.archive.name}" for name in sorted(drawings.keys() - expected)]
    faults += [
        f"{name} has {len(files)} drawings, not {layout.drawings}"
        for name, files in drawings.items()
        if name in expected and len(files) != layout.drawings
    ]
    if faults:
        first = f" (the first of {len(faults)} faults)" if faults[1:] else ""
        raise ValueError(f"{source.path}: {faults[0]}{first}; remove it and fetch or unpack it again")


def listing(source: Source) -> AbstractContextManager[Drawings]:
    return _zip_listing(source) if source.path.suffix == ".zip" else _folder_listing(source)


@contextmanager
def _zip_listing(source: Source) -> Iterator[Drawings]:
    try:
        archive = zipfile.ZipFile(source.path)
    except Exception as error:  # zipfile raises many kinds of errors for damaged archives
        raise ValueError(
            f"{source.path} cannot be read as a zip archive ({error}); remove it and fetch it again"
        ) from error
    with archive:
        members = {}
        for info in archive.infolist():
            path = _safe_path(info, source.path)
            if path in members:
                raise ValueError(f"{source.path} holds {info.filename} twice; remove it and fetch it again")
            if not info.is_dir():
                members[path] = info
        yield _sorted_drawings(
            source.archive.name,
            (
                (path, Drawing(f"{source.path}: {path}", partial(_read_member, archive, info, source.path)))
                for path, info in members.items()
            ),
        )


def _safe_path(info: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    """Return a member's path; raise ValueError if unpacking it would write outside the target folder."""
    name, path = info.filename, PurePosixPath(info.filename)
    outside = not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0]
    if outside or stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(
            f"{archive}: refused, because its member {name!r} is a link or lies outside the archive's folder"
        )
    return path


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    if info.file_size > _LARGEST_DRAWING:
        raise ValueError(f"{path}: {info.filename} has {info.file_size:,} bytes, too many for a drawing of Omniglot")
    try:
        return archive.read(info)  # checks the CRC
    except Exception as error:  # zipfile's decompressors raise many kinds of errors
        raise ValueError(
            f"{path}: {info.filename} is damaged ({error}); remove the archive and fetch it again"
        ) from error


@contextmanager
def _folder_listing(source: Source) -> Iterator[Drawings]:
    top = source.path
    if (top / top.name).is_dir():  # unpacked into a folder of the same name
        top = top / top.name
    files = (Path(folder, name) for folder, _, names in os.walk(top) for name in names)
    yield _sorted_drawings(
        top.name,
        (
            (PurePosixPath(top.name, *file.relative_to(top).parts), Drawing(str(file), file.read_bytes))
            for file in files
        ),
    )


def _sorted_drawings(top: str, files: Iterable[tuple[PurePosixPath, Drawing]]) -> Drawings:
    """Group ``<top>/<alphabet>/<character>/<file>`` by character, sorted; skip files that operating systems add."""
    drawings: Drawings = {}
    for path, drawing in sorted(files, key=lambda pair: pair[0].parts):
        if any(part.startswith(".") or part in _LITTER for part in path.parts):
            continue
        if len(path.parts) != 4 or path.parts[0] != top or path.suffix.lower() != ".png":
            raise ValueError(f"{drawing.where} does not belong to Omniglot; remove it")
        drawings.setdefault("/".join(path.parts[1:3]), []).append(drawing)
    return drawings

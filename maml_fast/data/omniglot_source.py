"""Reading Omniglot's drawings from an archive, which is never unpacked, or from a folder that somebody unpacked."""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from maml_fast.data.omniglot_layout import Archive, Layout, class_names
from maml_fast.data.pictures import decode

__all__ = ["Source", "find_source", "read_drawings"]

_SUBFOLDERS = ("", "omniglot", "omniglot-py", "python", "omniglot/python")  # ours, torchvision's, the repository's
_LARGEST_DRAWING = 1 << 16  # bytes; the real ones have some 300
_LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}


class Source(NamedTuple):
    """Where the drawings of one archive are: its .zip, or the folder that came out of it."""

    archive: Archive
    path: Path


class Drawing(NamedTuple):
    """One picture file."""

    where: str  # what errors call it
    read: Callable[[], bytes]


Drawings = dict[str, list[Drawing]]  # "Alphabet/characterNN" -> its drawings, sorted by file name


def find_source(root: Path, archive: Archive) -> Source | None:
    """Look for an archive, then for its folder, in `root` and in the subfolders where others keep them."""
    for subfolder in _SUBFOLDERS:
        for path in (root / subfolder / f"{archive.name}.zip", root / subfolder / archive.name):
            if path.is_file() if path.suffix == ".zip" else path.is_dir():
                return Source(archive, path)
    return None


def read_drawings(source: Source, layout: Layout, size: int) -> Iterator[np.ndarray]:
    """Yield the drawings of one character after the other: uint8 ``[drawings, 1, size, size]``.

    All names are checked before the first drawing is decoded.

    Raises:
        ValueError: a character, or one of its drawings, is missing, unexpected or damaged, or a member of the archive
            would leave its folder.
    """

    def check(image: Image.Image) -> None:
        if image.size != (layout.drawing_size,) * 2:
            width, height = image.size
            raise ValueError(f"it is {width} x {height} pixels, a drawing of Omniglot {layout.drawing_size} a side")

    with _listing(source) as drawings:
        _check_complete(drawings, source, layout)
        for name in class_names(source.archive):
            pixels = [decode(io.BytesIO(d.read()), d.where, "L", size, check) for d in drawings[name]]
            yield np.stack(pixels)


def _check_complete(drawings: Drawings, source: Source, layout: Layout) -> None:
    expected = class_names(source.archive)
    faults = [f"{name} is missing" for name in expected if name not in drawings]
    faults += [
        f"{name} is no character of Omniglot's {source.archive.name}" for name in drawings.keys() - set(expected)
    ]
    faults += [
        f"{name} has {len(files)} drawings, not {layout.drawings}"
        for name, files in drawings.items()
        if name in expected and len(files) != layout.drawings
    ]
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if faults[1:] else ""
        raise ValueError(f"{source.path}: {faults[0]}{more}; fetch or unpack it again")


def _listing(source: Source) -> AbstractContextManager[Drawings]:
    return _zip_listing(source) if source.path.suffix == ".zip" else _folder_listing(source)


@contextmanager
def _zip_listing(source: Source) -> Iterator[Drawings]:
    try:
        archive = zipfile.ZipFile(source.path)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"{source.path} is not a whole zip archive ({error}); fetch it again") from error
    with archive:
        members = {}
        for info in archive.infolist():
            path = _safe_path(info, source.path)
            if path in members:
                raise ValueError(f"{source.path} holds {info.filename} twice; fetch it again")
            if not info.is_dir():
                members[path] = info
        yield _sorted_drawings(
            (path, Drawing(f"{source.path}: {path}", partial(_read_member, archive, info, source.path)))
            for path, info in members.items()
        )


def _safe_path(info: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    """Return a member's path; refuse one that would leave the folder that the archive were unpacked into."""
    name, path = info.filename, PurePosixPath(info.filename)
    outside = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0]
    if outside or stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(
            f"{archive}: refused, since its member {name!r} is a link or leads out of the archive's folder"
        )
    return path


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    if info.file_size > _LARGEST_DRAWING:
        raise ValueError(f"{path}: {info.filename} has {info.file_size:,} bytes, too many for a drawing of Omniglot")
    try:
        return archive.read(info)  # checks the CRC
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise ValueError(f"{path}: {info.filename} is damaged ({error}); fetch the archive again") from error


@contextmanager
def _folder_listing(source: Source) -> Iterator[Drawings]:
    top = source.path
    if (top / top.name).is_dir():  # unpacked into a folder of its own name
        top = top / top.name
    files = (Path(folder, name) for folder, _, names in os.walk(top, followlinks=True) for name in names)
    yield _sorted_drawings(
        (PurePosixPath(top.name, *file.relative_to(top).parts), Drawing(str(file), file.read_bytes)) for file in files
    )


def _sorted_drawings(files: Iterator[tuple[PurePosixPath, Drawing]]) -> Drawings:
    """Sort ``<archive>/<alphabet>/<character>/<file>`` by character and file name; leave out what systems litter."""
    drawings: Drawings = {}
    for path, drawing in sorted(files, key=lambda pair: pair[0].parts):
        if any(part.startswith(".") or part in _LITTER for part in path.parts):
            continue
        if len(path.parts) != 4 or path.suffix.lower() != ".png":
            raise ValueError(f"{drawing.where} does not belong into Omniglot: remove it, or fetch the archive again")
        drawings.setdefault("/".join(path.parts[1:3]), []).append(drawing)
    return drawings

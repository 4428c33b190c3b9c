"""Reader for parts of a data set given as a .csv of file names and labels, next to a folder ``images``."""

from __future__ import annotations

import csv
from pathlib import Path

from maml_fast.data._bank import ImageBank
from maml_fast.data._conversion import Conversion, Pictures

__all__ = ["read_classes", "read_image_list"]

_COLUMNS = ("filename", "label")


def read_image_list(path: Path, conversion: Conversion, name: str) -> ImageBank:
    """Read the pictures that a .csv (columns ``filename`` and ``label``) lists, from the folder ``images`` next to it.

    This is the format of Ravi & Larochelle (2017). Classes and their pictures are sorted by name, as in class folders.
    Blanks around names and labels, a byte-order mark and the kind of line endings do not matter.

    Args:
        path: the .csv.
        conversion: size and channels of the bank's images.
        name: the bank's name.

    Raises:
        FileNotFoundError: a picture is missing.
        ValueError: the .csv has other columns or no rows, or names a picture twice or a file outside of ``images``; or
            a picture cannot be read.
        RuntimeError: the cache folder is not writable.
    """
    listed = read_classes(path)
    classes = {label: sorted(listed[label]) for label in sorted(listed)}
    files = [path.parent / "images" / file for names in classes.values() for file in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{path} names {len(missing):,} pictures that are not there, such as {missing[0]}")
    counts = [len(names) for names in classes.values()]
    pictures = Pictures(list(classes), counts, lambda i: conversion.decode(files[i]))
    return conversion.keep([path, *files], lambda: pictures, name)


def read_classes(path: Path) -> dict[str, list[str]]:
    """Return the file names of each label that a .csv lists, both in its order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has other columns or no rows, or names a picture twice or a file outside of ``images``.
    """
    classes: dict[str, list[str]] = {}
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            if not set(_COLUMNS) <= set(rows.fieldnames):
                raise ValueError(f"its first line must name the columns filename,label; it names {rows.fieldnames}")
            for row in rows:
                picture, label = ((row[column] or "").strip() for column in _COLUMNS)
                if Path(picture).is_absolute() or ".." in Path(picture).parts:
                    raise ValueError(f"line {rows.line_num} names {picture}, which is not inside images")
                if not picture or not label:
                    raise ValueError(f"line {rows.line_num} lacks a filename or a label")
                if picture in seen:
                    raise ValueError(f"line {rows.line_num} names {picture} a second time")
                seen.add(picture)
                classes.setdefault(label, []).append(picture)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    if not classes:
        raise ValueError(f"{path} cannot be used: it names no pictures")
    return classes

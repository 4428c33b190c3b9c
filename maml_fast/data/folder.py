"""Data sets made of picture files, with one folder per class."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from maml_fast._arguments import location, optional, takes, text
from maml_fast.data._bank import ImageBank
from maml_fast.data._conversion import Conversion, Pictures
from maml_fast.data._dataset import DataSet, MessageCallback, Options, Progress, check_seed, print_to_stderr
from maml_fast.data._splits import Split, find_parts, read_split, shuffled

__all__ = ["PICTURE_SUFFIXES", "list_pictures", "load_folder", "read_folder", "report_unused"]

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_MAX_IN_MEMORY = 1 << 28  # bytes of pixels; larger banks are kept on disk and mapped


class _Class(NamedTuple):
    name: str
    files: list[Path]


@takes(root=location, name=optional(text), cache=optional(location))
def read_folder(
    root: Path | str,
    image_size: int = 28,
    channels: str = "L",
    *,
    name: str | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
    say: MessageCallback = print_to_stderr,
) -> ImageBank:
    """Read ``root/<class>/<picture>`` into a bank, classes and pictures sorted by name; classes may differ in size.

    Hidden files are skipped. Other files that are not pictures are skipped too, and `say` reports how many.

    Args:
        root: the folder that contains one folder of pictures per class.
        image_size: pixels per side; pictures are resized without keeping their proportions.
        channels: "L" (gray) or "RGB".
        name: the bank's name; the folder's name if None.
        cache: a folder in which to keep the pixels, as a .npy that is memory-mapped. It is used again until a picture
            is added, removed or written; if reading is killed, the next call resumes where it stopped. If None, the
            pixels stay in memory, but more than 256 MiB of them go to ``MAML_FAST_CACHE``.
        progress: called with (pictures done, pictures in total).
        say: called with each message for the user, one line.

    Raises:
        FileNotFoundError: `root` does not exist.
        TypeError: an argument has the wrong type.
        ValueError: there are no class folders, a class is empty, or a picture cannot be read; the message names it.
        RuntimeError: `cache` is not writable.
    """
    conversion = Conversion(image_size, channels, progress, say)
    root = Path(root)
    name = name or root.resolve().name
    files, pictures = list_pictures(root, conversion)
    if cache is None and len(files) * math.prod(conversion.image_shape) <= _MAX_IN_MEMORY:
        return conversion.hold(pictures, name)
    return conversion.keep(files, lambda: pictures, name, None if cache is None else Path(cache))


def list_pictures(root: Path, conversion: Conversion) -> tuple[list[Path], Pictures]:
    """Return the picture files in the class folders, ordered by class, and the pictures to be decoded from them.

    Raises:
        FileNotFoundError, ValueError: as `read_folder`.
    """
    classes = _listing(root, conversion.say)
    files = [file for each in classes for file in each.files]
    names, counts = [each.name for each in classes], [len(each.files) for each in classes]
    return files, Pictures(names, counts, lambda i: conversion.decode(files[i]))


def load_folder(options: Options) -> DataSet:
    """Load data set "folder".

    If `root` contains the folders ``train`` and ``test`` (and optionally ``val``) of class folders, these are the parts
    of the data set. They may have any of their usual names (``training``, ``valid``, ``validation``, ``dev``,
    ``testing``). Otherwise the classes in `root` are split: by the split files in the folder `split`, or at random by
    `seed`, with four fifths for training.
    """
    options.allow("folder", "root", "split", "image_size", "channels", "seed")
    root = options.required_root("folder", "a folder of class folders of pictures")
    parts = find_parts(root) if root.is_dir() else {}
    if {"train", "test"} <= parts.keys():
        if options.split is not None or options.seed is not None:
            raise ValueError(f"{root} is split by its folders train and test; give neither split nor seed")
        report_unused(root, parts.values(), options.say)
        banks = {part: _bank(path, options) for part, path in parts.items()}
        return DataSet(root.resolve().name, banks, Split("folders", {p: b.class_names for p, b in banks.items()}))
    if options.split is not None:
        if options.seed is not None:
            raise ValueError("give split or seed, not both: split files use no random numbers")
        split = read_split(Path(options.split))
        return DataSet.of(_bank(root, options), split)
    seed, bank = check_seed(options.seed), _bank(root, options)
    return DataSet.of(bank, shuffled(bank.class_names, seed))


def report_unused(root: Path, taken: Collection[Path], say: MessageCallback) -> None:
    """Tell the user which entries of ``root`` are not used, besides the parts of the data set in ``taken``."""
    kinds = {path.suffix for path in taken}
    left = [path for path in _visible(root) if path not in taken and path.suffix in kinds and path.name != "images"]
    if left:
        names = ", ".join(path.name for path in taken)
        say(f"left out {len(left)} entries of {root} beside {names}, such as {left[0].name}")


def _bank(root: Path, options: Options) -> ImageBank:
    size = 28 if options.image_size is None else options.image_size
    channels = "L" if options.channels is None else options.channels
    return read_folder(root, size, channels, progress=options.progress, say=options.say)


def _listing(root: Path, say: MessageCallback) -> list[_Class]:
    """List the classes and their pictures; tell the user how many other files there are."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    classes, left_out = [], []
    for entry in _visible(root):
        if not entry.is_dir():
            left_out.append(entry)
            continue
        pictures: list[Path] = []
        others: list[Path] = []
        for file in _visible(entry):
            (pictures if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file() else others).append(file)
        if not pictures:
            raise ValueError(f"class folder {entry} holds no pictures{_what_instead(others)}")
        classes.append(_Class(entry.name, pictures))
        left_out += others
    if not classes:
        raise ValueError(f"{root} holds no class folders; put the pictures of every class into a folder of its own")
    if left_out:
        say(f"left out {len(left_out)} entries of {root} that are not pictures, such as {left_out[0]}")
    return classes


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _what_instead(others: list[Path]) -> str:
    if not others:
        return "; remove it, or put some there"
    if others[0].is_dir():
        return f" but folders, such as {others[0].name}; is {others[0].parent} the root?"
    return f" with a known extension ({', '.join(sorted(PICTURE_SUFFIXES))}), only {others[0].name}"

"""Splits: which classes are used for meta-training, for validation and for meta-testing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.random import RandomState

from maml_fast._arguments import check_fields, location, many, shown, takes, text
from maml_fast.data._bank import ImageBank

__all__ = ["PARTS", "Split", "find_parts", "first_and_rest", "read_split", "shuffled"]

PARTS = ("train", "val", "test")
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Split:
    """A named partition of class names.

    Attributes:
        name: the split's name in records.
        classes: the class names of each part: "train", "test" and optionally "val". Their order becomes the order of
            the bank's classes, so it determines which episodes a seed draws.

    Raises:
        TypeError: `name` is not a string, or `classes` is not a mapping to sequences of strings.
        ValueError: a part is unknown, missing or empty, or a class occurs twice.
    """

    name: str
    classes: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        check_fields(self, name=text)
        if not isinstance(self.classes, Mapping):
            raise TypeError(f"classes must map the parts train and test to class names, got {shown(self.classes)}")
        unknown = set(self.classes) - set(PARTS)
        if unknown or "train" not in self.classes or "test" not in self.classes:
            raise ValueError(
                f"split {self.name!r} needs the parts train and test, and may have val; got {[*self.classes]}"
            )
        classes = {part: many(text)(f"classes[{part!r}]", names) for part, names in self.classes.items()}
        object.__setattr__(self, "classes", classes)
        owner: dict[str, str] = {}
        for part, names in self.classes.items():
            if not names:
                raise ValueError(f"part {part!r} of split {self.name!r} has no classes")
            for name in names:
                if name in owner:
                    raise ValueError(f"class {name!r} of split {self.name!r} is in {owner[name]} and again in {part}")
                owner[name] = part

    @property
    def sha256(self) -> str:
        """The digest of the parts and their class names in order; equal digests mean equal splits."""
        parts = [[part, list(self.classes[part])] for part in PARTS if part in self.classes]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return the entries for a record: name, number of classes of each part, digest."""
        return {"name": self.name, **{part: len(names) for part, names in self.classes.items()}, "sha256": self.sha256}

    def apply(self, bank: ImageBank) -> dict[str, ImageBank]:
        """Return one bank per part, all sharing the images of `bank`; raise ValueError if `bank` lacks a class."""
        number = {name: i for i, name in enumerate(bank.class_names)}
        banks = {}
        for part, names in self.classes.items():
            missing = [name for name in names if name not in number]
            if missing:
                raise ValueError(
                    f"split {self.name!r} puts class {missing[0]!r} into {part}, but {bank.name} has no such class"
                    + (f" ({len(missing) - 1} others are missing too)" if missing[1:] else "")
                )
            banks[part] = bank.select([number[name] for name in names], f"{bank.name}/{part}")
        return banks

    def __str__(self) -> str:
        sizes = " / ".join(f"{len(names)} {part}" for part, names in self.classes.items())
        return f"{self.name}: {sizes} classes, sha256 {self.sha256[:12]}"


def find_parts(folder: Path, entry: str = "{}") -> dict[str, Path]:
    """Return the files or folders of the parts found in a folder, under any of their usual names, ignoring case.

    Args:
        folder: the folder to search.
        entry: the name of a part's file or folder, with "{}" for the part; a name without a suffix is a folder's.

    Raises:
        ValueError: a part exists under two names.
    """
    found: dict[str, Path] = {}
    wanted = {entry.format(spelling).lower(): part for part in PARTS for spelling in SPELLINGS[part]}
    for path in sorted(folder.iterdir()):
        part = wanted.get(path.name.lower())
        if part is None or not (path.is_file() if Path(entry).suffix else path.is_dir()):
            continue
        if part in found:
            raise ValueError(f"{folder} holds {found[part].name} and {path.name}, which both mean {part}; remove one")
        found[part] = path
    return {part: found[part] for part in PARTS if part in found}


def first_and_rest(name: str, class_names: Sequence[str], n_train: int) -> Split:
    """Return the split into the first `n_train` classes for training and the rest for testing."""
    return Split(name, {"train": tuple(class_names[:n_train]), "test": tuple(class_names[n_train:])})


def shuffled(class_names: Sequence[str], seed: int = 0, *, test_share: float = 0.2) -> Split:
    """Return a random split, determined by `seed`; every part keeps the order of `class_names`."""
    n_classes = len(class_names)
    if n_classes < 2:
        raise ValueError(f"a split needs at least 2 classes, got {n_classes}")
    n_test = min(max(round(test_share * n_classes), 1), n_classes - 1)
    test = set(RandomState(seed).permutation(n_classes)[:n_test].tolist())
    parts = {"train": [], "test": []}  # type: dict[str, list[str]]
    for i, name in enumerate(class_names):
        parts["test" if i in test else "train"].append(name)
    return Split(f"shuffled-{seed}", {part: tuple(names) for part, names in parts.items()})


@takes(folder=location)
def read_split(folder: Path | str) -> Split:
    """Read a split from files of class names in `folder`; the split is named after the folder.

    Two formats are supported, both of which are in use for Vinyals' split of Omniglot:

    - ``train.txt``, ``val.txt`` (or ``valid``, ``validation``, ``dev``), ``test.txt``: one class per line,
      ``Alphabet/characterNN``; a rotation after it (``/rot090``) is dropped, because the sampler draws rotations
      (jakesnell/prototypical-networks);
    - ``train.json``, ``val.json``, ``test.json``: ``{"background": {"Alphabet": ["characterNN", ...]}, "evaluation":
      ...}`` (tristandeleu/pytorch-meta).

    Raises:
        FileNotFoundError: the folder, or a file for train or test, is missing.
        TypeError: ``folder`` is not a path.
        ValueError: a file has neither format, or a class is in two parts.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} of split files (train.txt, val.txt, test.txt)")
    lines, sets = find_parts(folder, "{}.txt"), find_parts(folder, "{}.json")
    classes = {}
    for part in PARTS:
        if part in lines:
            classes[part] = tuple(dict.fromkeys(_read_lines(lines[part])))
        elif part in sets:
            classes[part] = tuple(dict.fromkeys(_read_json(sets[part])))
        elif part != "val":
            raise FileNotFoundError(f"{folder} has neither {part}.txt nor {part}.json, the classes of its {part} part")
    return Split(folder.name, classes)


def _read_lines(file: Path) -> list[str]:
    lines = [line.strip() for line in _read_text(file).splitlines()]
    return [re.sub(r"/rot\d{3}$", "", line) for line in lines if line]


def _read_json(file: Path) -> list[str]:
    try:
        sets = json.loads(_read_text(file))
        return [f"{folder}/{name}" for folders in sets.values() for folder, names in folders.items() for name in names]
    except (json.JSONDecodeError, AttributeError, TypeError, RecursionError) as error:
        form = '{"background": {"Alphabet": ["character01", ...]}, "evaluation": {...}}'
        raise ValueError(f"{file} is not of the form {form}: {error}") from None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # accepts a byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file: {error}") from None

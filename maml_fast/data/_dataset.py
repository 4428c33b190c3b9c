"""The options of data sets, and the banks that they return."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from maml_fast._arguments import Kind, check_fields, instance, int_from, optional, shown, text
from maml_fast.data._bank import ImageBank
from maml_fast.data._splits import Split

__all__ = ["SEED", "DataSet", "MessageCallback", "Options", "Progress", "check_seed", "print_to_stderr", "printable"]

Progress = Callable[[int, int], None]  # called with (done, total)
MessageCallback = Callable[[str], None]  # called with one line for the user

SEED: Kind = int_from(0, 2**32 - 1)  # what NumPy's RandomState accepts


def print_to_stderr(line: str) -> None:
    """Print a message for the user on stderr, apart from the program's output on stdout."""
    print(f"maml_fast: {printable(line)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return one line that is safe to print: control characters and lone surrogates, as in file names, are escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def check_seed(seed: int | None) -> int:
    """Return the seed, or 0 for None; raise TypeError or ValueError unless NumPy's RandomState accepts it."""
    return optional(SEED)("seed", seed) or 0


@dataclass(frozen=True)
class Options:
    """The options of a data set; None selects the data set's default.

    Attributes:
        root: folder of the data.
        split: name of a split, or a folder of split files.
        image_size: pixels per side.
        channels: "L" (gray) or "RGB".
        seed: seed of random data or of a random split.
        progress: called with (done, total) during long work.
        say: called with each message for the user, one line.
    """

    root: Path | None = None
    split: str | None = None
    image_size: int | None = None
    channels: str | None = None
    seed: int | None = None
    progress: Progress | None = None
    say: MessageCallback = print_to_stderr

    def allow(self, data_set: str, *names: str) -> None:
        """Raise ValueError if an option is set that this data set does not use; ``names`` are those that it uses."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in (*names, "progress", "say") and value is not None:
                raise ValueError(f"data set {data_set!r} takes no {field.name}, got {field.name}={str(value)!r}")

    def required_root(self, data_set: str, what: str) -> Path:
        """Return the root; raise ValueError if it is not set."""
        if self.root is None:
            raise ValueError(f"data set {data_set!r} needs root (--root DIR): {what}")
        return self.root


@dataclass(frozen=True, eq=False)
class DataSet(Mapping[str, ImageBank]):
    """The banks of a data set by part: ``data_set["train"]``, ``data_set["test"]`` and, if it exists, ``["val"]``.

    Attributes:
        name: the data set's name.
        banks: the bank of each part.
        split: the split into parts.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    name: str
    banks: Mapping[str, ImageBank]
    split: Split

    def __post_init__(self) -> None:
        check_fields(self, name=text, split=instance(Split))
        if not isinstance(self.banks, Mapping):
            raise TypeError(f"banks must map parts to banks, got {shown(self.banks)}")
        for part, bank in self.banks.items():
            instance(ImageBank, "use ImageBank.from_array")(f"banks[{part!r}]", bank)

    @classmethod
    def of(cls, bank: ImageBank, split: Split) -> DataSet:
        """Make a data set by splitting a bank."""
        return cls(bank.name, split.apply(bank), split)

    def __getitem__(self, part: str) -> ImageBank:
        return self.banks[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self.banks)

    def __len__(self) -> int:
        return len(self.banks)

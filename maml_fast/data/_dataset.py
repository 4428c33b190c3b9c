"""What every data set is handed, and what it hands back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from maml_fast._arguments import Kind, instance, optional, settle, shown, text, whole
from maml_fast.data._bank import ImageBank
from maml_fast.data._splits import Split

__all__ = ["SEED", "DataSet", "Options", "Progress", "Say", "check_seed", "printable", "say_on_stderr"]

Progress = Callable[[int, int], None]  # called with (done, total)
Say = Callable[[str], None]  # called with one line for the user

SEED: Kind = whole(0, 2**32 - 1)  # that NumPy's RandomState takes


def say_on_stderr(line: str) -> None:
    """Print a line to the user without disturbing what the program writes to stdout."""
    print(f"maml_fast: {printable(line)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """One line for a terminal: what would move its cursor, or is no character, as names of files may be, is escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def check_seed(seed: int | None) -> int:
    """Return the seed, 0 for None; raise TypeError or ValueError unless RandomState takes it."""
    return optional(SEED)("seed", seed) or 0


@dataclass(frozen=True)
class Options:
    """What a data set may be asked for; None leaves the choice to it.

    Attributes:
        root: folder of the data.
        split: name of a split, or a folder of split files.
        image_size: pixels per side.
        channels: "L" (gray) or "RGB".
        seed: of data, or of a split, that are made at random.
        progress: called with (done, total) in long work.
        say: called with a line that the user should see.
    """

    root: Path | None = None
    split: str | None = None
    image_size: int | None = None
    channels: str | None = None
    seed: int | None = None
    progress: Progress | None = None
    say: Say = say_on_stderr

    def allow(self, data_set: str, *names: str) -> None:
        """Raise ValueError if an option is given that means nothing to this data set, rather than ignore it."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in (*names, "progress", "say") and value is not None:
                raise ValueError(f"data set {data_set!r} takes no {field.name}, got {field.name}={str(value)!r}")

    def the_root(self, data_set: str, what: str) -> Path:
        """Return the root; raise ValueError where it was not given."""
        if self.root is None:
            raise ValueError(f"data set {data_set!r} needs root (--root DIR): {what}")
        return self.root


@dataclass(frozen=True, eq=False)
class DataSet(Mapping[str, ImageBank]):
    """The banks of a data set by part: ``data_set["train"]``, ``data_set["test"]``, and perhaps ``data_set["val"]``.

    Raises:
        TypeError: an attribute is of another type.
    """

    name: str
    banks: Mapping[str, ImageBank]
    split: Split

    def __post_init__(self) -> None:
        settle(self, name=text, split=instance(Split))
        if not isinstance(self.banks, Mapping):
            raise TypeError(f"banks must map parts to banks, got {shown(self.banks)}")
        for part, bank in self.banks.items():
            instance(ImageBank, "use ImageBank.from_array")(f"banks[{part!r}]", bank)

    @classmethod
    def of(cls, bank: ImageBank, split: Split) -> DataSet:
        """Part a bank by a split."""
        return cls(bank.name, split.apply(bank), split)

    def __getitem__(self, part: str) -> ImageBank:
        return self.banks[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self.banks)

    def __len__(self) -> int:
        return len(self.banks)

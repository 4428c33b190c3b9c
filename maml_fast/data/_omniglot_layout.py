"""The alphabets and characters of Omniglot (Lake, Salakhutdinov & Tenenbaum 2015), and the usual splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from numpy.random import RandomState

from maml_fast.data._splits import Split, first_and_rest

__all__ = ["OMNIGLOT", "SPLITS", "Archive", "Layout", "finn_split", "tutorial_split", "vinyals_split"]


@dataclass(frozen=True)
class Archive:
    """One of the two archives: ``name``.zip contains ``name/<alphabet>/characterNN/*.png``."""

    name: str
    alphabets: Mapping[str, int]  # alphabet -> number of characters
    md5: str  # of the official archive


@dataclass(frozen=True)
class Layout:
    """Everything that Omniglot contains, so that errors can name what is missing, and a .npy needs no class names."""

    archives: tuple[Archive, ...]
    url: str  # the official archives are at url/<name>.zip
    drawings: int = 20  # per character
    drawing_size: int = 105  # pixels per side

    @property
    def class_names(self) -> tuple[str, ...]:
        """All ``Alphabet/characterNN``, in the tutorial's order: by archive, then by sorted alphabet and character."""
        return tuple(name for archive in self.archives for name in class_names(archive))


def class_names(archive: Archive) -> list[str]:
    """Return all ``Alphabet/characterNN`` of one archive, sorted."""
    return [f"{name}/character{i:02d}" for name, n in sorted(archive.alphabets.items()) for i in range(1, n + 1)]


OMNIGLOT = Layout(
    archives=(
        Archive(
            "images_background",
            {
                "Alphabet_of_the_Magi": 20,
                "Anglo-Saxon_Futhorc": 29,
                "Arcadian": 26,
                "Armenian": 41,
                "Asomtavruli_(Georgian)": 40,
                "Balinese": 24,
                "Bengali": 46,
                "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14,
                "Braille": 26,
                "Burmese_(Myanmar)": 34,
                "Cyrillic": 33,
                "Early_Aramaic": 22,
                "Futurama": 26,
                "Grantha": 43,
                "Greek": 24,
                "Gujarati": 48,
                "Hebrew": 22,
                "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16,
                "Japanese_(hiragana)": 52,
                "Japanese_(katakana)": 47,
                "Korean": 40,
                "Latin": 26,
                "Malay_(Jawi_-_Arabic)": 40,
                "Mkhedruli_(Georgian)": 41,
                "N_Ko": 33,
                "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14,
                "Sanskrit": 42,
                "Syriac_(Estrangelo)": 23,
                "Tagalog": 17,
                "Tifinagh": 55,
            },
            md5="68d2efa1b9178cc56df9314c21c6e718",
        ),
        Archive(
            "images_evaluation",
            {
                "Angelic": 20,
                "Atemayar_Qelisayer": 26,
                "Atlantean": 26,
                "Aurek-Besh": 26,
                "Avesta": 26,
                "Ge_ez": 26,
                "Glagolitic": 45,
                "Gurmukhi": 45,
                "Kannada": 41,
                "Keble": 26,
                "Malayalam": 47,
                "Manipuri": 40,
                "Mongolian": 30,
                "Old_Church_Slavonic_(Cyrillic)": 45,
                "Oriya": 46,
                "Sylheti": 28,
                "Syriac_(Serto)": 23,
                "Tengwar": 25,
                "Tibetan": 42,
                "ULOG": 26,
            },
            md5="6b91aef0f799c5bb55b94e3f2daec811",
        ),
    ),
    url="https://raw.githubusercontent.com/brendenlake/omniglot/master/python",
)

_N_TRAIN = 1200
_FINN_VAL = 100  # of the 1200
_VINYALS_VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")


def tutorial_split() -> Split:
    """Return the split of the tutorial and of many papers: the first 1200 characters for training, 423 for testing."""
    return first_and_rest("tutorial", OMNIGLOT.class_names, _N_TRAIN)


def vinyals_split() -> Split:
    """Return the split of Vinyals et al. (2016): 1028 characters for training, 172 for validation, 423 for testing.

    Its test classes are the tutorial's; its validation classes are five alphabets of the tutorial's training classes.
    It equals the split files of jakesnell/prototypical-networks and tristandeleu/pytorch-meta, which `read_split`
    reads.
    """
    first, rest = OMNIGLOT.class_names[:_N_TRAIN], OMNIGLOT.class_names[_N_TRAIN:]
    val = tuple(name for name in first if name.split("/")[0] in _VINYALS_VAL)
    train = tuple(name for name in first if name not in val)
    return Split("vinyals", {"train": train, "val": val, "test": rest})


def finn_split() -> Split:
    """Return a split like that of Finn et al. (2017): 1100 characters for training, 100 for validation, 423 to test.

    Characters are shuffled with seed 1, so that training and testing share all alphabets. The classes of each part are
    not those of Finn et al., which depend on the order of a directory listing.
    """
    names = OMNIGLOT.class_names
    shuffled = [names[i] for i in RandomState(1).permutation(len(names))]
    first, rest = shuffled[:_N_TRAIN], shuffled[_N_TRAIN:]
    parts = {"train": first[:-_FINN_VAL], "val": first[-_FINN_VAL:], "test": rest}
    return Split("finn", {part: tuple(classes) for part, classes in parts.items()})


SPLITS = {"tutorial": tutorial_split, "vinyals": vinyals_split, "finn": finn_split}

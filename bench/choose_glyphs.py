"""Chooses the characters of the data set "glyphs", and prints maml_fast/data/_glyph_characters.py.

A character is chosen if

- at least 12 of the typefaces have it,
- it is a letter, number, symbol or punctuation mark that stands alone,
- its drawings in these typefaces all differ, and
- no character chosen before it, in the order of code points, looks like it in any typeface.

Two drawings look alike if their squared difference is at most a tenth of the ink of the lighter one, both 28 x 28
with the longer side of the ink equally long. They differ if it is more than a hundredth.

Letters that Unicode decomposes into the same base, such as e, é and ê, are in the same part of the split.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np

from maml_fast.data._glyph_drawing import PLAIN, draw_glyph
from maml_fast.data._typefaces import typefaces

LEAST_FACES = 12
ALIKE, SAME = 0.1, 0.01  # squared difference, as a share of the ink of the lighter drawing
NOT_ALONE = {"Mn", "Mc", "Me", "Lm", "Sk", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"}  # Unicode's categories
SHARES = {"train": 64, "val": 16, "test": 20}  # percent of the characters' bases
SIDE = 28

Drawings = dict[int, np.ndarray]  # number of the typeface -> ink, float32 [SIDE * SIDE]


def drawings_of(character: str) -> Drawings:
    """Return the character's drawings in the typefaces that have it."""
    faces = enumerate(typefaces())
    inks = {i: face.ink(character) for i, face in faces if face.has(character)}
    return {
        i: (255 - draw_glyph(ink, PLAIN, SIDE)[0].astype(np.float32)).ravel() / 255
        for i, ink in inks.items()
        if ink is not None
    }


def difference(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the squared differences of a drawing [P] from others [N, P], as shares of the lighter one's ink."""
    lighter = np.minimum((one**2).sum(), (others**2).sum(axis=1))
    return ((one - others) ** 2).sum(axis=1) / lighter


def all_differ(drawings: Drawings) -> bool:
    """Return whether no two drawings of a character are the same."""
    stacked = np.stack(list(drawings.values()))
    return all((difference(each, stacked[i + 1 :]) > SAME).all() for i, each in enumerate(stacked))


class Chosen:
    """The characters chosen so far, with their drawings by typeface."""

    def __init__(self) -> None:
        self.characters: list[str] = []
        self._drawings: dict[int, list[np.ndarray]] = {}

    def look_like(self, drawings: Drawings) -> bool:
        """Return whether one of them looks like these drawings, in any typeface."""
        return any(
            bool((difference(each, np.stack(self._drawings[i])) <= ALIKE).any())
            for i, each in drawings.items()
            if i in self._drawings
        )

    def add(self, character: str, drawings: Drawings) -> None:
        self.characters.append(character)
        for i, each in drawings.items():
            self._drawings.setdefault(i, []).append(each)


def candidates() -> Iterator[str]:
    """Yield, in the order of code points, the characters that stand alone and are in enough typefaces."""
    for character in map(chr, range(sys.maxunicode + 1)):
        faces = sum(face.has(character) for face in typefaces())
        if faces >= LEAST_FACES and unicodedata.category(character) not in NOT_ALONE:
            yield character


def choose() -> list[str]:
    """Return the chosen characters."""
    chosen = Chosen()
    for character in candidates():
        drawings = drawings_of(character)
        if len(drawings) >= LEAST_FACES and all_differ(drawings) and not chosen.look_like(drawings):
            chosen.add(character, drawings)
    return chosen.characters


def base_of(character: str) -> str:
    """Return the letter without accents."""
    return unicodedata.normalize("NFD", character)[0]


def part_of(character: str) -> str:
    """Return the part of the split that a character's base is in, by a digest of the base."""
    percent = int.from_bytes(hashlib.sha256(base_of(character).encode()).digest()[:8], "big") % 100
    return "train" if percent < SHARES["train"] else "val" if percent < SHARES["train"] + SHARES["val"] else "test"


def lines(characters: Iterable[str], width: int = 90) -> Iterator[str]:
    """Yield string literals that together hold the characters."""
    text = "".join(characters)
    for start in range(0, len(text), width):
        escaped = text[start : start + width].replace("\\", "\\\\").replace('"', '\\"')
        yield f'        "{escaped}"'


def main() -> None:
    characters = choose()
    print(
        '"""The characters of the data set "glyphs" by part; ``bench/choose_glyphs.py`` chooses and prints them."""\n'
    )
    print("from __future__ import annotations\n")
    print("from collections.abc import Mapping\n")
    print('__all__ = ["CHARACTERS"]\n')
    print("CHARACTERS: Mapping[str, str] = {")
    for part in SHARES:
        print(f'    "{part}": (')
        print(*lines(c for c in characters if part_of(c) == part), sep="\n")
        print("    ),")
    print("}")


if __name__ == "__main__":
    main()

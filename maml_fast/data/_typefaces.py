"""The typefaces that matplotlib ships, and the ink of their characters as Pillow draws it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import PIL
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFont, features

__all__ = ["FACES", "Typeface", "drawing_versions", "typefaces"]

# Faces for text. Left out: those for mathematics alone, in encodings of their own, and that of last resort.
FACES = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
)

_EM = 128  # pixels; larger than any picture needs, so that pictures are scaled down


class Typeface:
    """One font file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._font = ImageFont.truetype(str(file), _EM, layout_engine=ImageFont.Layout.BASIC)
        self._numbers = FT2Font(str(file)).get_charmap()  # code point -> number of the glyph; 0 is "missing"

    def has(self, character: str) -> bool:
        """Return whether the typeface has the character."""
        return bool(self._numbers.get(ord(character)))

    def ink(self, character: str) -> Image.Image | None:
        """Return the drawn character cut to its ink, mode L with 255 for ink; None if there is no ink."""
        mask, _ = self._font.getmask2(character, mode="L")
        box = mask.getbbox()
        return None if box is None else Image.frombytes("L", mask.size, bytes(mask)).crop(box)


@cache
def typefaces() -> tuple[Typeface, ...]:
    """Open all of `FACES`; raise FileNotFoundError if matplotlib was installed without one."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    missing = [name for name in FACES if not (folder / f"{name}.ttf").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {missing[0]}.ttf, which matplotlib ships; reinstall it with: pip install matplotlib"
        )
    return tuple(Typeface(folder / f"{name}.ttf") for name in FACES)


def drawing_versions() -> tuple[str, str]:
    """Return the version of FreeType and the major version of Pillow, which decide the pixels."""
    return features.version("freetype2") or "unknown", PIL.__version__.partition(".")[0]

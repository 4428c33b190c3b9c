"""Characters in the typefaces that matplotlib ships: real pictures that need no download.

A class is a character, and each of its images shows it in another typeface. Gray images are black on white, and all
equally large. Images in color vary: each has its own tints of paper and ink, size and slant.

No two characters look alike in any typeface; ``bench/choose_glyphs.py`` says how they were chosen.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np
from PIL import Image

from maml_fast.data._conversion import Conversion, Pictures
from maml_fast.data._dataset import DataSet, Options, check_seed
from maml_fast.data._glyph_characters import CHARACTERS
from maml_fast.data._glyph_drawing import PLAIN, draw_glyph, random_styles
from maml_fast.data._glyph_pixels import report_unknown_versions
from maml_fast.data._splits import Split
from maml_fast.data._typefaces import Typeface, drawing_versions, typefaces

__all__ = ["load_glyphs"]

_SIZES = {"L": 28, "RGB": 84}  # pixels per side, by channels


def load_glyphs(options: Options) -> DataSet:
    """Load data set "glyphs", gray 28 x 28 by default, or in color 84 x 84; it is drawn once, into the cache."""
    options.allow("glyphs", "image_size", "channels", "seed")
    channels = "L" if options.channels is None else options.channels
    if channels == "L" and options.seed is not None:
        raise ValueError(f"gray glyphs have nothing random, got seed={options.seed}; leave it out, or use channels RGB")
    size = _SIZES[channels] if options.image_size is None else options.image_size
    seed = check_seed(options.seed)
    split = Split("glyphs", {part: tuple(map(unicodedata.name, each)) for part, each in CHARACTERS.items()})
    conversion = Conversion(size, channels, options.progress, options.say)
    bank = conversion.keep(
        [face.file for face in typefaces()],
        lambda: _pictures(conversion, seed),
        "-".join(["glyphs", channels, str(seed), *drawing_versions(), split.sha256[:8]]),
    )
    return DataSet.of(replace(bank, name="glyphs"), split)


def _pictures(conversion: Conversion, seed: int) -> Pictures:
    """Return all characters in all typefaces that have them, ordered by part, character and typeface."""
    report_unknown_versions(conversion.say)
    characters, faces = "".join(CHARACTERS.values()), typefaces()
    places = [(character, i) for character in characters for i, face in enumerate(faces) if face.has(character)]
    styles = [PLAIN] * len(places) if conversion.channels == "L" else list(random_styles(seed, places))

    def image(number: int) -> np.ndarray:
        character, face = places[number]
        return draw_glyph(_ink(faces[face], character), styles[number], conversion.size)

    counts = [sum(face.has(character) for face in faces) for character in characters]
    return Pictures(list(map(unicodedata.name, characters)), counts, image)


def _ink(face: Typeface, character: str) -> Image.Image:
    ink = face.ink(character)
    if ink is None:
        name = unicodedata.name(character)
        raise ValueError(f"{face.file} draws nothing for {name}; reinstall matplotlib, which ships this file")
    return ink

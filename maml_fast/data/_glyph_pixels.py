"""The pixels of data set "glyphs" on record. Versions of FreeType and Pillow draw a few of them differently."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from maml_fast.data._bank import ImageBank
from maml_fast.data._dataset import MessageCallback
from maml_fast.data._typefaces import drawing_versions

__all__ = ["PIXELS", "digest_of", "report_unknown_versions"]

# Digests of all pixels, gray 28 x 28 and color 84 x 84 of seed 0, by the versions that draw them.
_OLDER = (
    "181d78353d6a6447233c50ffd5c4266663e66857eba0f8d4bae4822dfe272e14",
    "1e01c6499ea02825d8ca4c2dd337e9c94a11932dbc90ec1821900e6ac32f9b6e",
)
_FREETYPE_2_14 = (
    "7108a4edb33f21e3e24abebee0961e8799036c306afda86c62bef20efafec9a7",
    "609e403c1cbdf5503ff7d2b04a0bf13dde19904d4da96f9c63d51424cefa5b21",
)
_PILLOW_13 = (
    "05463db39c8b04360747fe957237d17abcf6c5d0114d8587b1e3970d45881497",
    "ca9de297ab8b58f692e9615ca6e1777229119577f76a467021097503dc9ee1f0",
)
PIXELS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("2.13.2", "10"): _OLDER,
    ("2.13.2", "11"): _OLDER,
    ("2.13.3", "11"): _OLDER,
    ("2.14.1", "12"): _FREETYPE_2_14,
    ("2.14.3", "12"): _FREETYPE_2_14,
    ("2.14.3", "13"): _PILLOW_13,
}


def digest_of(bank: ImageBank) -> str:
    """Return the SHA-256 digest of all pixels."""
    return hashlib.sha256(np.ascontiguousarray(bank.images).data).hexdigest()


def report_unknown_versions(say: MessageCallback) -> None:
    """Say so if the pixels that are drawn here are not on record."""
    if drawing_versions() not in PIXELS:
        freetype, pillow = drawing_versions()
        say(
            f"FreeType {freetype} and Pillow {pillow} draw these glyphs; they are not on record, and a few pixels may "
            "differ from those of other versions"
        )

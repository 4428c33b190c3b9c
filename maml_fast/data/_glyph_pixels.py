"""The pixels of data set "glyphs" on record. Versions of FreeType and Pillow draw a few of them differently."""

from __future__ import annotations

from collections.abc import Mapping

from maml_fast.data._dataset import MessageCallback
from maml_fast.data._typefaces import drawing_versions

__all__ = ["PIXELS", "report_unknown_versions"]

# SHA-256 digests by version: of all gray images, 28 x 28, and of every fiftieth image in color, 84 x 84, of seed 0.
_OLDER = (
    "181d78353d6a6447233c50ffd5c4266663e66857eba0f8d4bae4822dfe272e14",
    "a5710c65bafbdd49459398eacc4bd805004c624203e1b74a57ee3b6d9839be57",
)
_FREETYPE_2_14 = (
    "7108a4edb33f21e3e24abebee0961e8799036c306afda86c62bef20efafec9a7",
    "a5710c65bafbdd49459398eacc4bd805004c624203e1b74a57ee3b6d9839be57",
)
_PILLOW_13 = (
    "05463db39c8b04360747fe957237d17abcf6c5d0114d8587b1e3970d45881497",
    "24484f47aba8b9dbf60c05a5d196cffaf0ebe8aa1a195a49d1e8bec5ad3bff3f",
)
# (FreeType, major version of Pillow): digests
PIXELS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("2.13.2", "10"): _OLDER,
    ("2.13.2", "11"): _OLDER,
    ("2.13.3", "11"): _OLDER,
    ("2.14.1", "12"): _FREETYPE_2_14,
    ("2.14.3", "12"): _FREETYPE_2_14,
    ("2.14.3", "13"): _PILLOW_13,
}


def report_unknown_versions(say: MessageCallback) -> None:
    """Say so if the pixels that are drawn here are not on record."""
    if drawing_versions() not in PIXELS:
        freetype, pillow = drawing_versions()
        say(
            f"FreeType {freetype} and Pillow {pillow} draw these glyphs; they are not on record, and a few pixels may "
            "differ from those of other versions"
        )

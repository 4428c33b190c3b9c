"""Picture files as people have them: turned, animated, huge, or called what they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from maml_fast.data import _pictures as pictures
from maml_fast.data import read_folder

pytestmark = pytest.mark.backendless


def half_dark(width: int = 28, height: int = 28) -> Image.Image:
    pixels = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
    return Image.fromarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    half_dark(40, 28).convert("RGB").save(tmp_path / "a.jpg", exif=exif, quality=100)
    found = pictures.decode(tmp_path / "a.jpg", "a.jpg", "L", 28)
    with Image.open(tmp_path / "a.jpg") as image:
        wanted = pictures.fitted(ImageOps.exif_transpose(image), "L", 28)
    np.testing.assert_array_equal(found, wanted)
    assert (orientation == 1) == np.array_equal(found, pictures.fitted(Image.open(tmp_path / "a.jpg"), "L", 28)) or (
        orientation == 4  # which is symmetric here
    )


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_of_16_bits_of_gray_the_upper_8_are_taken(ending: str, tmp_path: Path) -> None:
    deep = np.asarray(half_dark()).astype(np.uint16) * 256 + 99
    Image.fromarray(deep).save(tmp_path / f"x.{ending}")
    found = pictures.decode(tmp_path / f"x.{ending}", "x", "L", 28)
    np.testing.assert_array_equal(found, pictures.fitted(half_dark(), "L", 28))


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_frames_beyond_the_first_are_told_once(ending: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    frames = [half_dark(), half_dark().rotate(90), half_dark().rotate(180)]
    for name in ("x", "y"):
        frames[0].save(tmp_path / "a" / f"{name}.{ending}", save_all=True, append_images=frames[1:])
    lines: list[str] = []
    bank = read_folder(tmp_path, 28, say=lines.append)
    assert len(bank.images) == 2
    assert lines == [
        f"{tmp_path / 'a' / f'x.{ending}'} has several frames; only the first frame of such pictures is used"
    ]


def test_a_single_frame_is_nothing_to_tell(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    half_dark().save(tmp_path / "a" / "x.gif")
    read_folder(tmp_path, 28, say=pytest.fail)


def test_programs_called_pictures_are_not_started(tmp_path: Path) -> None:
    file = tmp_path / "4.png"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match="is not a picture that Pillow can read"):
        pictures.decode(file, "4.png", "L", 8)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("1", (13_000, 7_000)).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"a.png cannot be used: has 13000 x 7000 pixels, more than 64,000,000; shrink"
    ):
        pictures.decode(tmp_path / "a.png", "a.png", "L", 8)

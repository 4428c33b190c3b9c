"""Characters in matplotlib's typefaces: which they are, how they are drawn, and that they are the same everywhere."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator

import choose_glyphs
import numpy as np
import pytest
from PIL import Image

from maml_fast import data
from maml_fast.data import DataSet, _glyph_pixels, _glyphs
from maml_fast.data._conversion import Conversion
from maml_fast.data._glyph_characters import CHARACTERS
from maml_fast.data._glyph_drawing import PLAIN, Style, draw_glyph, random_styles
from maml_fast.data._glyph_pixels import PIXELS
from maml_fast.data._typefaces import FACES, drawing_versions, typefaces

pytestmark = pytest.mark.backendless


@pytest.fixture(scope="module")
def gray(tmp_path_factory) -> Iterator[DataSet]:
    """All of it, drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAML_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load("glyphs")


@pytest.fixture
def few(monkeypatch, tmp_path) -> dict[str, str]:
    """Only some of the characters, which are quickly drawn."""
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path))
    few = {"train": "034", "val": "AD", "test": "&8J"}
    monkeypatch.setattr(_glyphs, "CHARACTERS", few)
    return few


def test_parts_and_names(gray):
    assert {part: len(bank) for part, bank in gray.items()} == {"train": 450, "val": 118, "test": 133}
    assert gray["train"].image_shape == (1, 28, 28)
    assert gray["val"].class_names[0] == "LATIN CAPITAL LETTER A"
    assert min(bank.counts.min() for bank in gray.values()) == 12
    assert max(bank.counts.max() for bank in gray.values()) == len(FACES)


def test_gray_images_are_black_on_white_and_equally_large(gray):
    for image in gray["train"].images[::97, 0]:
        rows, columns = np.nonzero(image < 255)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (21, 22)  # 80 % of 28; the faintest rim may be white
        assert image[0].min() == 255
        assert image.min() < 100


def test_every_image_shows_its_character_and_none_a_missing_one(gray):
    """An image for each typeface that has the character; the box that stands for missing ones is not among them."""
    missing = "\N{CJK UNIFIED IDEOGRAPH-4E00}"
    assert not any(face.has(missing) for face in typefaces())
    boxes = [draw_glyph(ink, PLAIN, 28) for ink in (face.ink(missing) for face in typefaces()) if ink is not None]
    assert boxes
    for part, bank in gray.items():
        counts = [sum(face.has(character) for face in typefaces()) for character in CHARACTERS[part]]
        assert bank.counts.tolist() == counts
        for box in boxes:
            assert not (bank.images == box).all(axis=(1, 2, 3)).any()


def test_no_two_characters_look_alike_in_any_typeface(gray):
    """And the drawings of a character differ. Other versions of FreeType may be a little off the limits."""
    by_face: list[list[np.ndarray]] = [[] for _ in FACES]
    for part, bank in gray.items():
        for character, images in zip(CHARACTERS[part], bank, strict=True):
            ink = (255 - images.astype(np.float32)).reshape(len(images), -1) / 255
            assert differences(ink).min() > 0.8 * choose_glyphs.SAME
            for face, each in zip((i for i, f in enumerate(typefaces()) if f.has(character)), ink, strict=True):
                by_face[face].append(each)
    assert min(differences(np.stack(ink)).min() for ink in by_face) > 0.8 * choose_glyphs.ALIKE


def differences(ink: np.ndarray) -> np.ndarray:
    """Squared differences of drawings [N, P] from one another, as shares of the lighter one's ink."""
    squares = (ink**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * ink @ ink.T
    return (apart / np.minimum(squares[:, None], squares))[~np.eye(len(ink), dtype=bool)]


def test_letters_of_one_base_are_in_one_part():
    parts: dict[str, set[str]] = {}
    for part, characters in CHARACTERS.items():
        for character in characters:
            parts.setdefault(unicodedata.normalize("NFD", character)[0], set()).add(part)
    assert {len(each) for each in parts.values()} == {1}


def test_known_versions_draw_known_pixels(gray):
    if drawing_versions() not in PIXELS:
        pytest.skip(f"FreeType and Pillow {drawing_versions()} are not on record")
    pictures = _glyphs._pictures(Conversion(84, "RGB"), 0)
    color = hashlib.sha256()
    for i in range(0, sum(pictures.counts), 50):
        color.update(pictures.image(i).tobytes())
    plain = hashlib.sha256(gray["train"].images.tobytes()).hexdigest()  # of all parts, which share the array
    assert (plain, color.hexdigest()) == PIXELS[drawing_versions()]


def test_unknown_versions_are_told(few, monkeypatch):
    told = []
    monkeypatch.setattr(_glyph_pixels, "drawing_versions", lambda: ("1.2.3", "99"))
    data.load("glyphs", say=told.append)
    assert "FreeType 1.2.3 and Pillow 99 draw these glyphs; they are not on record" in told[0]
    data.load("glyphs", say=told.append)
    assert len(told) == 2  # this, and that they are converted


def test_color(few):
    told = []
    loaded = data.load("glyphs", channels="RGB", progress=lambda *counts: told.append(counts))
    images = loaded["train"].images
    assert images.shape[1:] == (3, 84, 84)
    assert told[-1] == (len(images), len(images))
    assert [len(loaded[part]) for part in few] == [3, 2, 3]
    corners = images[:, :, 0, 0].tolist()
    assert len({tuple(corner) for corner in corners}) == len(corners)  # papers differ
    assert (data.load("glyphs", channels="RGB", seed=1)["train"].images != images).any()
    assert data.load("glyphs", channels="RGB", image_size=20)["test"].image_shape == (3, 20, 20)


def test_a_style_depends_on_seed_character_and_typeface_alone():
    places = [(character, face) for character in "Aé҂" for face in range(16)]
    styles = list(random_styles(5, places))
    assert list(random_styles(5, places[7:20])) == styles[7:20]
    assert not set(map(str, random_styles(6, places))) & set(map(str, styles))
    for style in styles:
        assert 500 <= style.extent <= 900
        assert -250 <= style.slant <= 250
        light, dark = sorted((style.paper, style.ink), key=sum, reverse=True)
        assert min(light) >= 156
        assert max(dark) < 100
    assert {sum(style.paper) > sum(style.ink) for style in styles} == {False, True}


def test_drawing():
    bar = Image.new("L", (10, 100), 255)
    upright = draw_glyph(bar, Style(500, 0, (200, 100, 0), (0, 50, 255)), 40)
    np.testing.assert_array_equal(upright[:, 0, 0], [200, 100, 0])
    np.testing.assert_array_equal(upright[:, 20, 20], [0, 50, 255])
    assert np.ptp(np.nonzero((upright != upright[:, :1, :1]).any(axis=(0, 2)))[0]) + 1 == 20  # rows with ink
    for slant in (250, -250):
        ink = draw_glyph(bar, PLAIN._replace(slant=slant), 40)[0] < 128
        top, bottom = (np.nonzero(ink[row])[0].mean() for row in (6, 33))
        assert (top - bottom) * slant > 0
        assert abs(top - bottom) == pytest.approx(0.25 * 27, abs=1)


def test_a_missing_typeface(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no DejaVuSans.ttf, which matplotlib ships; reinstall it with"):
        typefaces.__wrapped__()


BAD = {
    "gray with seed": ({"seed": 1}, "gray glyphs have nothing random, got seed=1; leave it out, or use channels RGB"),
    "root": ({"root": "x"}, "'glyphs' takes no root"),
    "split": ({"split": "x"}, "'glyphs' takes no split"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        data.load("glyphs", **options)


def test_the_choice_of_characters(monkeypatch):
    """The characters before the sixth hundred, chosen again."""
    if drawing_versions() not in PIXELS:
        pytest.skip("another version of FreeType may be a little off the limits")
    latin = {c for c in choose_glyphs.candidates() if ord(c) < 0x180}
    monkeypatch.setattr(choose_glyphs, "candidates", lambda: sorted(latin))
    chosen = choose_glyphs.choose()
    assert chosen == sorted(c for characters in CHARACTERS.values() for c in characters if ord(c) < 0x180)
    assert "Ο" not in chosen  # Greek, like the zero
    assert all(c in CHARACTERS[choose_glyphs.part_of(c)] for c in chosen)
    assert list(choose_glyphs.lines('a"\\b', width=3)) == ['        "a\\"\\\\"', '        "b"']

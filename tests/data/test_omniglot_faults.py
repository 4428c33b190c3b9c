"""Whatever is wrong with the archives of Omniglot is told, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_omniglot import TINY, png, tiny_files, write_folders, write_zips

from maml_fast.data import prepare_omniglot

pytestmark = [pytest.mark.usefixtures("cache_folder"), pytest.mark.backendless]


def drop(*names):
    return lambda files: {path: content for path, content in files.items() if not any(n in path for n in names)}


def add(**members):
    return lambda files: {**files, **members["members"]}


def damage(index: int, change):
    def apply(files):
        path = sorted(files)[index]
        return {**files, path: change(files[path])}

    return apply


ONE = "images_background/Beta/character01/"


BAD_CONTENT = {
    "character missing": (
        drop("Beta/character01"),
        "images_background.*: Beta/character01 is missing or empty; remove it and fetch",
    ),
    "alphabet missing": (drop("Beta"), r"Beta/character01 is missing or empty \(the first of 2 faults\)"),
    "drawing missing": (drop("0000_03"), "Beta/character02 has 2 drawings, not 3"),
    "in the second archive": (drop("Gamma"), "images_evaluation.*: Gamma/character01 is missing"),
    "drawing too many": (add(members={ONE + "0009_09.png": png(9)}), "Beta/character01 has 4 drawings, not 3"),
    "alphabet too many": (
        add(members={"images_background/Z/character01/1.png": png(9)}),
        "Z/character01 is not a character",
    ),
    "stray file": (add(members={"images_background/notes.txt": b"x"}), "notes.txt does not belong"),
    "stray file beside drawings": (add(members={ONE + "notes.txt": b"x"}), "notes.txt does not belong"),
    "too deep": (add(members={ONE + "more/1.png": png(9)}), "more/1.png does not belong"),
    "drawing empty": (damage(1, lambda content: b""), "character01/.*png is not a picture"),
    "drawing no picture": (damage(1, lambda content: b"hello"), "character01/.*png is not a picture"),
    "drawing cut short": (damage(-1, lambda content: content[:-30]), "Gamma/character01/.*png cannot be used: "),
    "drawing damaged": (
        damage(-1, lambda content: content[:-40] + bytes(20) + content[-20:]),
        "Gamma/character01/.*png cannot be used: ",
    ),
    "drawing of another size": (
        damage(0, lambda content: png(1, side=28)),
        "has 28 x 28 pixels, but .* have 40 x 40",
    ),
}


@pytest.mark.parametrize("write", [write_zips, write_folders])
@pytest.mark.parametrize(("change", "message"), BAD_CONTENT.values(), ids=BAD_CONTENT)
def test_faults_are_named(change, message, write, tmp_path):
    write(tmp_path, change(tiny_files()))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=message):
        prepare_omniglot(tmp_path, layout=TINY)
    assert sorted(os.listdir(tmp_path)) == before


def link(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "member",
    [
        "../evil.png",
        "images_background/../../evil.png",
        "/evil.png",
        "images_background\\..\\evil.png",
        "C:/evil.png",
        "../",
        link(ONE + "0009_09.png"),
    ],
    ids=str,
)
def test_members_that_leave_the_folder_are_refused(member, tmp_path):
    root = tmp_path / "a" / "b"
    write_zips(root, tiny_files())
    with zipfile.ZipFile(root / "images_background.zip", "a") as zipped:
        zipped.writestr(member, b"x")
    with pytest.raises(ValueError, match=r"images_background.zip: refused, because its member .* lies outside"):
        prepare_omniglot(root, layout=TINY)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "images_background.zip",
        "images_evaluation.zip",
    ]


def test_a_member_twice(tmp_path):
    write_zips(tmp_path, tiny_files())
    with zipfile.ZipFile(tmp_path / "images_background.zip", "a") as zipped:
        zipped.writestr("images_background/./Beta/character01/0003_03.png", png(1))
    with pytest.raises(ValueError, match=r"images_background.zip holds .*0003_03.png twice"):
        prepare_omniglot(tmp_path, layout=TINY)


def test_a_bomb_is_not_inflated(tmp_path):
    files = tiny_files()
    files[ONE + "0009_09.png"] = bytes(1 << 20)
    write_zips(tmp_path, drop("0003_03")(files), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"0009_09.png has 1,048,576 bytes, too many"):
        prepare_omniglot(tmp_path, layout=TINY)


BAD_ARCHIVES = {
    "empty": lambda content: b"",
    "no archive": lambda content: b"<html>not found</html>",
    "cut short": lambda content: content[: len(content) // 2],
}


@pytest.mark.parametrize("change", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
def test_bad_archives_are_named(change, tmp_path):
    write_zips(tmp_path, tiny_files())
    path = tmp_path / "images_evaluation.zip"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"images_evaluation.zip cannot be read as a zip archive \(.*; remove it and fetch it again"
    ):
        prepare_omniglot(tmp_path, layout=TINY)


def test_a_wrong_checksum_in_the_archive_is_named(tmp_path):
    write_zips(tmp_path, tiny_files())
    path = tmp_path / "images_evaluation.zip"
    content = path.read_bytes()
    drawing = tiny_files()["images_evaluation/Gamma/character01/0012_03.png"]
    path.write_bytes(content.replace(drawing, drawing[:-1] + bytes(1)))
    with pytest.raises(ValueError, match=r"Gamma/character01/0012_03.png is damaged \(Bad CRC-32"):
        prepare_omniglot(tmp_path, layout=TINY)


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> tuple[Path, np.ndarray]:
    root = tmp_path_factory.mktemp("intact")
    write_zips(root, tiny_files(), zipfile.ZIP_DEFLATED)
    return root, np.load(prepare_omniglot(root, layout=TINY, say=lambda line: None))


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_damage_is_told_or_harmless(intact, data):
    root, expected = intact
    content = bytearray((root / "images_background.zip").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), data.draw(st.integers(0, len(content)))]))]
    damaged = root / "damaged"
    damaged.mkdir(exist_ok=True)
    shutil.copy(root / "images_evaluation.zip", damaged)
    (damaged / "images_background.zip").write_bytes(content)
    try:
        array = np.load(prepare_omniglot(damaged, layout=TINY, say=lambda line: None))
    except ValueError as error:
        if "images_background" not in str(error):
            raise
    else:
        np.testing.assert_array_equal(array, expected)

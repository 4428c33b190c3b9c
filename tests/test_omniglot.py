from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maml_fast import data
from maml_fast.data import ImageBank, prepare_omniglot, read_omniglot
from maml_fast.data.omniglot_layout import OMNIGLOT, Archive, Layout, finn_split, tutorial_split, vinyals_split

TINY = Layout(
    archives=(
        Archive("images_background", {"Beta": 2, "Alpha": 1}, md5=""),
        Archive("images_evaluation", {"Alpha-2": 1, "Gamma": 1}, md5=""),
    ),
    url="http://127.0.0.1:1",
    drawings=3,
    drawing_size=40,
)
TINY_NAMES = ["Alpha/character01", "Beta/character01", "Beta/character02", "Alpha-2/character01", "Gamma/character01"]


def png(seed: int, side: int = 40, mode: str = "1") -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 256, (side, side), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def tiny_files() -> dict[str, bytes]:
    """The files of both archives, in no order."""
    files = {}
    for archive in TINY.archives:
        for alphabet, n in archive.alphabets.items():
            for i in reversed(range(1, n + 1)):
                for drawer in (3, 1, 2):
                    path = f"{archive.name}/{alphabet}/character{i:02d}/{len(files):04d}_{drawer:02d}.png"
                    files[path] = png(len(files))
    return files


def write_zips(folder: Path, files: dict[str, bytes], compression=zipfile.ZIP_STORED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for archive in TINY.archives:
        with zipfile.ZipFile(folder / f"{archive.name}.zip", "w", compression) as zipped:
            for path, content in files.items():
                if path.startswith(f"{archive.name}/"):
                    zipped.writestr(path, content)


def write_folders(folder: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def as_the_tutorial_reads(folder: Path, n_drawings: int) -> np.ndarray:
    """The tutorial's procedure: walk sorted listings, convert to L, resize by Pillow's default."""
    characters = []
    for archive in ("images_background", "images_evaluation"):
        for alphabet in sorted(os.listdir(folder / archive)):
            for character in sorted(os.listdir(folder / archive / alphabet)):
                files = sorted((folder / archive / alphabet / character).iterdir())
                assert len(files) == n_drawings
                characters.append([np.array(Image.open(file).convert("L").resize((28, 28))) for file in files])
    return np.array(characters)[:, :, None]


@pytest.fixture
def expected(tmp_path) -> np.ndarray:
    write_folders(tmp_path / "expected", tiny_files())
    return as_the_tutorial_reads(tmp_path / "expected", 3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


LAYOUTS = {
    "zips": lambda root, files: write_zips(root, files),
    "deflated zips": lambda root, files: write_zips(root, files, zipfile.ZIP_DEFLATED),
    "folders": write_folders,
    "zips in omniglot/": lambda root, files: write_zips(root / "omniglot", files),
    "torchvision's folders": lambda root, files: write_folders(root / "omniglot-py", files),
    "a clone's zips": lambda root, files: write_zips(root / "python", files),
    "folders in folders of their names": lambda root, files: write_folders(
        root, {f"{path.split('/')[0]}/{path}": content for path, content in files.items()}
    ),
    "litter": lambda root, files: write_zips(
        root,
        {
            **files,
            "images_background/.DS_Store": b"x",
            "images_background/Beta/character01/Thumbs.db": b"x",
            "images_evaluation/Gamma/._character01": b"x",
        },
    ),
}


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_prepare_equals_the_tutorial(write, expected, tmp_path):
    root = tmp_path / "root"
    write(root, tiny_files())
    told, lines = [], []
    path = prepare_omniglot(root, layout=TINY, progress=lambda *counts: told.append(counts), say=lines.append)
    assert path == root / "omniglot.npy"
    array = np.load(path)
    assert array.shape == (5, 3, 1, 28, 28)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, expected)
    assert told == [(i, 5) for i in range(1, 6)]
    assert len(lines) == 1
    assert f"wrote {path}: 5 characters x 3 drawings, in " in lines[0]


def test_a_zip_and_a_folder_side_by_side(expected, tmp_path):
    write_zips(tmp_path, tiny_files())
    (tmp_path / "images_evaluation.zip").unlink()
    write_folders(tmp_path, {path: c for path, c in tiny_files().items() if path.startswith("images_evaluation/")})
    np.testing.assert_array_equal(np.load(prepare_omniglot(tmp_path, layout=TINY)), expected)


def test_out_and_size(tmp_path):
    write_zips(tmp_path, tiny_files())
    (tmp_path / "elsewhere").mkdir()
    assert prepare_omniglot(tmp_path, tmp_path / "new" / "my.npy", layout=TINY) == tmp_path / "new" / "my.npy"
    path = prepare_omniglot(tmp_path, tmp_path / "elsewhere", size=20, layout=TINY)
    assert path == tmp_path / "elsewhere" / "omniglot_20.npy"
    assert np.load(path).shape == (5, 3, 1, 20, 20)
    with pytest.raises(ValueError, match=r"out must be a folder or end in .npy, got .*background.zip"):
        prepare_omniglot(tmp_path, tmp_path / "images_background.zip", layout=TINY)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        prepare_omniglot(tmp_path, size=0, layout=TINY)


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
        "Z/character01 is no character",
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
    "drawing of another size": (damage(0, lambda content: png(1, side=28)), "it is 28 x 28 pixels, .* 40 a side"),
    "drawing of 16 bits": (damage(0, lambda content: png(1, mode="I;16")), "not 8 bits per channel"),
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
    with pytest.raises(ValueError, match=r"images_background.zip: refused, since its member .* leads out"):
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


def test_missing_archives_name_the_remedy(tmp_path):
    root = tmp_path / "root"
    for call in (prepare_omniglot, read_omniglot):
        with pytest.raises(
            FileNotFoundError, match=f"images_background.zip .* is in {root}.*maml-fast prepare omniglot"
        ):
            call(root, layout=TINY)
    write_zips(root, tiny_files())
    (root / "images_evaluation.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"images_evaluation.zip"):
        prepare_omniglot(root, layout=TINY)


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
import test_omniglot as t
t.prepare_omniglot(sys.argv[1], layout=t.TINY, progress=lambda i, n: i == 3 and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_prepare_is_not_mistaken_for_a_result(expected, tmp_path):
    root = tmp_path / "root"
    write_zips(root, tiny_files())
    killed = subprocess.run([sys.executable, "-c", KILLED, root, Path(__file__).parent, *sys.path])
    assert killed.returncode == -signal.SIGKILL
    assert not list(root.glob("*.npy"))
    bank = read_omniglot(root, layout=TINY)
    np.testing.assert_array_equal(np.stack(list(bank)), expected)


def test_an_interrupted_prepare_keeps_the_older_file(tmp_path):
    write_zips(tmp_path, tiny_files())
    content = prepare_omniglot(tmp_path, layout=TINY).read_bytes()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_omniglot(tmp_path, layout=TINY, progress=stop)
    assert (tmp_path / "omniglot.npy").read_bytes() == content
    assert len(os.listdir(tmp_path)) == 3 + ("cache" in os.listdir(tmp_path))


def test_read_prepares_once_into_the_cache(expected, tmp_path, cache):
    root = tmp_path / "root"
    write_zips(root, tiny_files())
    lines = []
    for _ in range(2):
        bank = read_omniglot(root, layout=TINY, say=lines.append)
        np.testing.assert_array_equal(np.stack(list(bank)), expected)
    assert len(lines) == 2
    assert lines[0] == f"preparing Omniglot, once, into the cache folder {cache}"
    assert bank.file.path.parent == cache
    assert list(bank.class_names) == TINY_NAMES
    assert sorted(os.listdir(root)) == ["images_background.zip", "images_evaluation.zip"]

    changed = tiny_files()
    changed["images_evaluation/Gamma/character01/0012_03.png"] = png(99)
    write_zips(root, changed)
    os.utime(root / "images_evaluation.zip", ns=(0, 0))
    again = read_omniglot(root, layout=TINY, say=lines.append)
    assert len(lines) == 4
    assert (np.stack(list(again)) != expected).any(axis=(2, 3, 4)).sum() == 1


@pytest.mark.parametrize("name", ["omniglot.npy", "omniglot_data.npy", "omniglot/omniglot.npy"])
def test_read_takes_a_prepared_file(name, expected, tmp_path, cache):
    path = tmp_path / "root" / name
    path.parent.mkdir(parents=True)
    np.save(path, expected)
    bank = read_omniglot(tmp_path / "root", layout=TINY)
    assert bank.file.path == path
    assert list(bank.class_names) == TINY_NAMES
    np.testing.assert_array_equal(np.stack(list(bank)), expected)
    assert not cache.exists()


def test_a_prepared_file_of_another_shape_is_refused(expected, tmp_path):
    np.save(tmp_path / "omniglot.npy", expected[:4])
    with pytest.raises(ValueError, match=r"4 classes x 3 images of \(1, 28, 28\), but Omniglot has 5 x 3"):
        read_omniglot(tmp_path, layout=TINY)
    np.save(tmp_path / "omniglot.npy", expected / 255)
    with pytest.raises(TypeError, match=r"omniglot.npy: pixels must be uint8, got float64; save \(array \* 255\)"):
        read_omniglot(tmp_path, layout=TINY)
    os.truncate(tmp_path / "omniglot.npy", 1000)
    with pytest.raises(ValueError, match=r"omniglot.npy is cut short"):
        read_omniglot(tmp_path, layout=TINY)


@pytest.fixture
def official(tmp_path) -> Layout:
    """TINY, with its archives served under file: as if they were official."""
    write_zips(tmp_path / "official", tiny_files())
    digests = {f.stem: hashlib.md5(f.read_bytes()).hexdigest() for f in (tmp_path / "official").iterdir()}
    archives = tuple(replace(archive, md5=digests[archive.name]) for archive in TINY.archives)
    return replace(TINY, archives=archives, url=(tmp_path / "official").as_uri())


def test_download_fetches_only_what_is_missing(official, expected, tmp_path):
    root = tmp_path / "root"
    write_zips(root, tiny_files())
    (root / "images_evaluation.zip").unlink()
    kept = (root / "images_background.zip").stat().st_mtime_ns
    np.testing.assert_array_equal(np.load(prepare_omniglot(root, download=True, layout=official)), expected)
    assert (root / "images_background.zip").stat().st_mtime_ns == kept


def test_download_into_a_new_folder(official, expected, tmp_path):
    path = prepare_omniglot(tmp_path / "new", download=True, layout=official)
    np.testing.assert_array_equal(np.load(path), expected)


def test_download_of_another_file_is_refused(official, tmp_path):
    archives = (replace(official.archives[0], md5="0" * 32), official.archives[1])
    with pytest.raises(RuntimeError, match="its MD5 is"):
        prepare_omniglot(tmp_path / "new", download=True, layout=replace(official, archives=archives))
    assert os.listdir(tmp_path / "new") == []


def test_download_without_a_net_is_one_clear_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"cannot fetch http://127.0.0.1:1/images_background.zip .*put it at"):
        prepare_omniglot(tmp_path / "new", download=True, layout=TINY)


def test_splits():
    names = OMNIGLOT.class_names
    assert len(names) == len(set(names)) == 1623
    assert names[0] == "Alphabet_of_the_Magi/character01"
    assert names[1199:1201] == ("Gurmukhi/character41", "Gurmukhi/character42")
    tutorial, vinyals = tutorial_split(), vinyals_split()
    assert {part: len(c) for part, c in tutorial.classes.items()} == {"train": 1200, "test": 423}
    assert {part: len(c) for part, c in vinyals.classes.items()} == {"train": 1028, "val": 172, "test": 423}
    assert vinyals.classes["test"] == tutorial.classes["test"]
    assert set(vinyals.classes["train"]) | set(vinyals.classes["val"]) == set(tutorial.classes["train"])


def test_finns_split_mixes_the_alphabets():
    parts = finn_split().classes
    assert {part: len(names) for part, names in parts.items()} == {"train": 1100, "val": 100, "test": 423}
    assert set().union(*parts.values()) == set(OMNIGLOT.class_names)
    alphabets = [{name.split("/")[0] for name in names} for names in (parts["train"], parts["test"])]
    assert alphabets[0] == alphabets[1]
    assert finn_split().sha256 == "636a40a196ecaa89a1e5ef3e75a2aa04efc867080e4160a7b4902a005899276f"


@pytest.fixture
def random_omniglot(tmp_path) -> Path:
    """The tutorial's random stand-in for Omniglot, at 1 x 1 pixels."""
    pixels = np.random.RandomState(0).randint(0, 256, (1623, 20, 1, 1, 1), dtype=np.uint8)
    np.save(tmp_path / "omniglot_1.npy", pixels)
    return tmp_path


@pytest.mark.parametrize(
    ("split", "sizes"),
    [(None, [1200, 423]), ("tutorial", [1200, 423]), ("vinyals", [1028, 172, 423]), ("finn", [1100, 100, 423])],
)
def test_load(split, sizes, random_omniglot):
    loaded = data.load("omniglot", random_omniglot, split=split, image_size=1)
    assert [len(bank) for bank in loaded.values()] == sizes
    assert loaded.split.name == (split or "tutorial")
    pixels = np.load(random_omniglot / "omniglot_1.npy")
    first = OMNIGLOT.class_names.index(loaded["test"].class_names[0])
    assert (first == 1200) == (split != "finn")
    np.testing.assert_array_equal(loaded["test"][0], pixels[first])
    assert all(bank.images is loaded["train"].images for bank in loaded.values())
    assert loaded["test"].name == "omniglot/test"


def test_load_by_split_files(random_omniglot, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.txt").write_text("Greek/character02/rot000\nGreek/character02/rot090\nTengwar/character25\n")
    (folder / "test.txt").write_text("Greek/character01\n")
    loaded = data.load("omniglot", random_omniglot, split=folder, image_size=1)
    assert loaded["train"].class_names == ("Greek/character02", "Tengwar/character25")
    assert loaded.split.name == "mine"
    greek = OMNIGLOT.class_names.index("Greek/character01")
    np.testing.assert_array_equal(loaded["test"][0], np.load(tmp_path / "omniglot_1.npy")[greek])


@pytest.mark.omniglot
def test_real_omniglot_equals_the_tutorial(tmp_path):
    archives = Path(os.environ["MAML_FAST_DATA"]).absolute() / "omniglot"
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(archives / f"{name}.zip") as zipped:
            zipped.extractall(tmp_path / "unpacked")
    expected = as_the_tutorial_reads(tmp_path / "unpacked", 20)
    assert expected.shape == (1623, 20, 1, 28, 28)
    path = prepare_omniglot(archives, tmp_path / "omniglot.npy")
    np.testing.assert_array_equal(np.load(path), expected)

    names = [
        f"{alphabet.name}/{character.name}"
        for name in ("images_background", "images_evaluation")
        for alphabet in sorted((tmp_path / "unpacked" / name).iterdir())
        for character in sorted(alphabet.iterdir())
    ]
    assert list(OMNIGLOT.class_names) == names

    loaded = data.load("omniglot", tmp_path)
    assert isinstance(loaded["train"], ImageBank)
    np.testing.assert_array_equal(np.stack(list(loaded["test"])), expected[1200:])

"""Omniglot in small: five characters of three drawings, in the archives that hold the real ones."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from maml_fast.data._omniglot_layout import Archive, Layout

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
                characters.append([as_the_tutorial_sees(file) for file in files])
    return np.array(characters)[:, :, None]


def as_the_tutorial_sees(file: Path | BinaryIO) -> np.ndarray:
    return np.array(Image.open(file).convert("L").resize((28, 28)))


@pytest.fixture
def tiny_pixels(tmp_path) -> np.ndarray:
    write_folders(tmp_path / "expected", tiny_files())
    return as_the_tutorial_reads(tmp_path / "expected", 3)


@pytest.fixture
def cache_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MAML_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"

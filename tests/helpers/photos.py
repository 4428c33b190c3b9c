"""Photos of three shapes, as people have them, and a run that can be adapted to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maml_fast.train import TrainConfig, train

SHAPES = ("circle", "cross", "box")
MODES = ("L", "RGB", "RGBA", "P", "1", "LA", "CMYK")

RUN = TrainConfig(
    dataset="random",
    n_way=5,
    k_query=2,
    meta_batch_size=2,
    iterations=2,
    seed=3,
    hidden=4,
    image_size=16,
    head="zero",
    eval_every=2,
    eval_episodes=2,
    test_episodes=2,
    threads=1,
)


def photo(shape: str, number: int) -> Image.Image:
    """One of a shape: its size, place and mode follow from its number."""
    draws = np.random.default_rng([SHAPES.index(shape), number])
    width, height = (int(side) for side in draws.integers(20, 60, 2))
    image = Image.new("RGB", (width, height), "white")
    draw, (x, y) = ImageDraw.Draw(image), draws.integers(2, 6, 2)
    frame = (int(x), int(y), width - int(y), height - int(x))
    if shape == "circle":
        draw.ellipse(frame, outline="black", width=3)
    elif shape == "box":
        draw.rectangle(frame, outline="black", width=3)
    else:
        draw.line(frame, fill="black", width=3)
        draw.line((frame[0], frame[3], frame[2], frame[1]), fill="black", width=3)
    return image.convert(MODES[number % len(MODES)])


def write_photos(root: Path, counts: dict[str, int]) -> Path:
    """``root/<class>/<number>.<ending>``, so many of each."""
    for shape, count in counts.items():
        folder = root / shape
        folder.mkdir(parents=True)
        for number in range(count):
            ending = "tif" if MODES[number % len(MODES)] == "CMYK" else "png"
            photo(shape, number).save(folder / f"{number}.{ending}")
    return root


@pytest.fixture(scope="session")
def zero_run(tmp_path_factory) -> Path:
    """A run with no learned rows; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maml_fast.train._plots.draw_learning_curve", lambda *_: b"picture")
        patch.setattr("maml_fast.train._plots.draw_episode", lambda *_: b"picture")
        return train(RUN, out=tmp_path_factory.mktemp("zero") / "run").path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Unequal classes, one of them with one photo alone."""
    return write_photos(tmp_path / "photos", {"circle": 4, "cross": 3, "box": 1})

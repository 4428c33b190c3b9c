from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maml_fast.train import _plots as plots
from maml_fast.train._plots import EpisodePicture, draw_episode, draw_learning_curve, smooth

pytestmark = pytest.mark.backendless


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def share_of(png: bytes, color: str) -> float:
    """Share of a picture's pixels that have about this color."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(pixels(png) - wanted).max(axis=-1) < 12).mean())


def evaluation_row(iteration: int) -> dict:
    accuracies = {"accuracy": 0.5, "interval": 0.1, "accuracies": [0.2, 0.5]}
    return {"iteration": iteration, "split": "test", "inner_steps": 1, **accuracies}


def metric_rows(iterations: int, every: int) -> list[dict]:
    rows: list[dict] = []
    for i in range(iterations + 1):
        if i:
            rows.append({"iteration": i, "loss": 2.0 / i, "query_accuracy": 1 - 1.0 / i})
        if i % every == 0:
            rows.append(evaluation_row(i))
    return rows


def episode(n_way=5, k_shot=1, k_query=3, channels=1, right=1.0) -> EpisodePicture:
    random = np.random.default_rng(0)
    support_labels, query_labels = np.arange(n_way).repeat(k_shot), random.permutation(np.arange(n_way).repeat(k_query))
    size = (channels, 28, 28)
    after = np.where(np.arange(len(query_labels)) < right * len(query_labels), query_labels, (query_labels + 1) % n_way)
    return EpisodePicture(
        random.random((n_way * k_shot, *size)),
        support_labels,
        random.random((n_way * k_query, *size)),
        query_labels,
        (query_labels + 1) % n_way,
        after,
    )


@pytest.mark.parametrize(("iterations", "every"), [(0, 1), (1, 5), (300, 50), (9000, 500)])
def test_learning_curve_of_any_length(iterations, every):
    png = draw_learning_curve(metric_rows(iterations, every), "a title", 5, 1, 61.0)
    assert share_of(png, plots.TEST) > 0.0001
    assert (share_of(png, plots.TRAIN) > 0.0001) == (iterations > 0)


def test_learning_curve_of_nothing():
    assert share_of(draw_learning_curve([], "a title", 5, 1), plots.TRAIN) == 0


@pytest.mark.parametrize("kind", ["loss", "accuracy"])
def test_learning_curve_of_one_kind_of_row(kind):
    rows = [row for row in metric_rows(40, 10) if kind in row]
    png = draw_learning_curve(rows, "a title", 5, 1)
    assert (share_of(png, plots.TRAIN) > 0.001) == (kind == "loss")
    assert (share_of(png, plots.TEST) > 0.001) == (kind == "accuracy")


@pytest.mark.parametrize("title", ["文字 $x_{", "tab\tand\nline", "", "é – · ±"])
def test_titles_of_any_script_raise_no_warning(title):
    draw_learning_curve([], title, 5, 1)
    draw_episode(episode(n_way=2), title, 1)


@pytest.mark.parametrize("shape", [(2, 1, 2, 1), (3, 2, 2, 2), (2, 1, 2, 3), (2, 1, 2, 4), (21, 7, 9, 1)], ids=str)
def test_episode_of_any_size(shape):
    png = draw_episode(episode(*shape, right=0.5), "a title", 3)
    assert share_of(png, plots.RIGHT) > 0.001
    assert share_of(png, plots.WRONG) > 0.001


def test_right_answers_are_green_and_wrong_ones_red():
    all_wrong, all_right = (draw_episode(episode(right=right), "a title", 1) for right in (0.0, 1.0))
    assert share_of(all_wrong, plots.RIGHT) == 0
    assert share_of(all_right, plots.RIGHT) > 0.01  # after adaptation
    assert share_of(all_right, plots.WRONG) > 0.01  # before
    assert share_of(all_wrong, plots.WRONG) > 1.8 * share_of(all_right, plots.WRONG)


def test_pyplot_is_not_touched():
    draw_learning_curve([], "a title", 5, 1)
    assert "matplotlib.pyplot" not in sys.modules


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300))
def test_smoothing_stays_within_the_values(values):
    array = np.array(values)
    result = smooth(array)
    assert result.shape == array.shape
    assert array.min() - 1e-9 <= result.min() <= result.max() <= array.max() + 1e-9


def test_smoothing_leaves_a_constant_alone_and_is_a_mean():
    np.testing.assert_allclose(smooth(np.full(100, 0.7)), 0.7)
    np.testing.assert_allclose(smooth(np.array([0.0, 3.0, 0.0])), [0.0, 1.0, 1.5])


def test_smoothing_leaves_a_steep_start_unbent():
    falling = np.arange(400.0, 0.0, -1.0)
    np.testing.assert_allclose(smooth(falling)[:350], falling[:350])

"""The NumPy counterpart of ``csrc/sampler``: makes bit-identical meta-batches without the native library."""

from __future__ import annotations

import numpy as np

from maml_fast.data._augmentation import Augmentation, augmented
from maml_fast.data._bank import ImageBank
from maml_fast.data._philox import QUERY_AUGMENT_STREAM, SUPPORT_AUGMENT_STREAM, draw_episodes

__all__ = ["SCALES", "make_batch", "scale_table"]

SCALES = ("unit", "raw", "inverted")


def scale_table(scale: str) -> np.ndarray:
    """Return the scaled value of each byte, float32 ``[256]``; native code uses this table too.

    ``unit`` is ``x / 255``, ``raw`` is ``x``, ``inverted`` is ``1 - x / 255``, all in float32 arithmetic.
    """
    values = np.arange(256, dtype=np.float32)
    unit = values / np.float32(255)
    return {"unit": unit, "raw": values, "inverted": np.float32(1) - unit}[scale]


def make_batch(
    bank: ImageBank,
    table: np.ndarray,
    first_episode: int,
    meta_batch_size: int,
    *,
    seed: int,
    n_way: int,
    k_shot: int,
    k_query: int,
    rotate: bool,
    crop_padding: int,
    flip: bool,
    jitter: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x_spt ``[T, N*K, C, H, W]`` float32, y_spt ``[T, N*K]`` int64, x_qry and y_qry."""
    episodes = np.uint64(first_episode) + np.arange(meta_batch_size, dtype=np.uint64)
    draws = draw_episodes(seed, episodes, bank.counts, n_way, k_shot, k_query, rotate)
    augmentation = Augmentation(crop_padding, flip, jitter)
    rows = bank.starts[draws.classes][..., None] + draws.images  # [T, N, K+Q]

    def half(rows: np.ndarray, order: np.ndarray, stream: int) -> tuple[np.ndarray, np.ndarray]:
        labels = order // rows.shape[2]  # [T, N*K]
        rows = np.take_along_axis(rows.reshape(len(rows), -1), order, axis=1)
        turns = np.take_along_axis(draws.turns, labels, axis=1)
        images = augmented(bank.images[rows], augmentation, seed, episodes, stream, order)
        return np.take(table, _turned(images, turns)), labels

    return (
        *half(rows[..., :k_shot], draws.support_order, SUPPORT_AUGMENT_STREAM),
        *half(rows[..., k_shot:], draws.query_order, QUERY_AUGMENT_STREAM),
    )


def _turned(images: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Rotate each image ``[T, B, C, H, W]`` counterclockwise by its number of quarter turns ``[T, B]``, in place."""
    for quarter_turns in (1, 2, 3):
        chosen = turns == quarter_turns
        if chosen.any():
            images[chosen] = np.rot90(images[chosen], quarter_turns, axes=(-2, -1))
    return images

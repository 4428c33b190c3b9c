"""The NumPy version of the episode sampler's random numbers: Philox4x32-10, and the draws that make up an episode.

The layout of the draws is described in ``csrc/sampler/draws.h``; the two versions are bit-identical.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["EpisodeDraws", "below", "draw_episodes", "philox4x32", "uniform"]

CLASS_STREAM = 0
ROTATION_STREAM = 1
SUPPORT_ORDER_STREAM = 2
QUERY_ORDER_STREAM = 3
IMAGE_STREAM = 4  # of the episode's first class; each further class has the next stream
SUPPORT_AUGMENT_STREAM = 2**32 - 16  # and the five after it
QUERY_AUGMENT_STREAM = 2**32 - 8

_WORD = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)

Integers = np.ndarray | int


def philox4x32(counter: tuple[Integers, Integers, Integers, Integers], key: int) -> tuple[np.ndarray, ...]:
    """Compute Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

    Args:
        counter: four 32-bit words, each an integer or an array of integers; they broadcast.
        key: 64 bits, 0 to 2**64 - 1.

    Returns:
        Four arrays of 32-bit words (dtype uint64), of the broadcast shape.
    """
    a, b, c, d = np.broadcast_arrays(*(np.asarray(word, dtype=np.uint64) for word in counter))
    for i in range(10):
        key0 = np.uint64(((key & 0xFFFFFFFF) + i * _WEYL[0]) & 0xFFFFFFFF)
        key1 = np.uint64(((key >> 32) + i * _WEYL[1]) & 0xFFFFFFFF)
        product0, product1 = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # 32 x 32 bits fit into 64
        a, b = (product1 >> _SHIFT) ^ b ^ key0, product1 & _WORD
        c, d = (product0 >> _SHIFT) ^ d ^ key1, product0 & _WORD
    return a, b, c, d


def below(seed: int, episode: Integers, stream: Integers, index: Integers, n: Integers) -> np.ndarray:
    """Draw integers in ``[0, n)``: draw number `index` of `stream` of `episode`. The arguments broadcast.

    The result is ``floor(u * n / 2**64)`` for 64 random bits ``u``. There is no rejection, and each probability is off
    by less than ``2**-64``.
    """
    episode = np.asarray(episode, dtype=np.uint64)
    low, high, _, _ = philox4x32((episode & _WORD, episode >> _SHIFT, index, stream), seed)
    n = np.asarray(n, dtype=np.uint64)
    return ((high * n + ((low * n) >> _SHIFT)) >> _SHIFT).astype(np.int64)


def uniform(seed: int, episode: Integers, stream: Integers, index: Integers) -> np.ndarray:
    """Draw float64 numbers in [0, 1), multiples of ``2**-53``: draw number `index` of `stream` of `episode`.

    The arguments broadcast. The random bits are the upper 53 of the 64 that `below` uses for the same draw.
    """
    episode = np.asarray(episode, dtype=np.uint64)
    low, high, _, _ = philox4x32((episode & _WORD, episode >> _SHIFT, index, stream), seed)
    return ((high << _SHIFT | low) >> np.uint64(11)) * 2.0**-53


class EpisodeDraws(NamedTuple):
    """The draws of ``T`` episodes; all int64."""

    classes: np.ndarray  # [T, n_way], class numbers, at the index that is the class's label
    images: np.ndarray  # [T, n_way, k_shot + k_query], image numbers within the class: support first, then query
    turns: np.ndarray  # [T, n_way], quarter turns 0..3
    support_order: np.ndarray  # [T, n_way * k_shot], which item, numbered label * k_shot + s, is at each position
    query_order: np.ndarray  # [T, n_way * k_query], the same for query items


def draw_episodes(
    seed: int, episodes: np.ndarray, counts: np.ndarray, n_way: int, k_shot: int, k_query: int, rotate: bool
) -> EpisodeDraws:
    """Draw the episodes with the numbers `episodes` (``[T]``) from classes of `counts` images (``[n_classes]``)."""
    slots = np.arange(n_way)
    by_slot = np.repeat(episodes, n_way)  # [T * n_way]
    classes = _shuffle(seed, episodes, CLASS_STREAM, len(counts), n_way)  # [T, n_way]
    image_streams = IMAGE_STREAM + np.tile(slots, len(episodes))
    images = _shuffle(seed, by_slot, image_streams, counts[classes].reshape(-1), k_shot + k_query)
    turns = below(seed, episodes[:, None], ROTATION_STREAM, slots, 4) if rotate else np.zeros_like(classes)
    n_support, n_query = n_way * k_shot, n_way * k_query
    return EpisodeDraws(
        classes,
        images.reshape(len(episodes), n_way, k_shot + k_query),
        turns,
        _shuffle(seed, episodes, SUPPORT_ORDER_STREAM, n_support, n_support),
        _shuffle(seed, episodes, QUERY_ORDER_STREAM, n_query, n_query),
    )


def _shuffle(seed: int, episodes: np.ndarray, streams: Integers, n: Integers, k: int) -> np.ndarray:
    """Return the first `k` items of Fisher-Yates shuffles of ``0..n-1``: ``[R, k]``, one row per episode and stream."""
    n = np.broadcast_to(n, episodes.shape)  # [R]
    steps = np.arange(k)
    streams = np.broadcast_to(streams, episodes.shape)[:, None]
    others = steps + below(seed, episodes[:, None], streams, steps, n[:, None] - steps)  # [R, k]
    rows = np.arange(len(n))
    places = np.tile(np.arange(n.max()), (len(n), 1))  # [R, largest n]
    for i in range(k):
        other = others[:, i]
        places[rows, i], places[rows, other] = places[rows, other], places[rows, i]
    return places[:, :k].copy()

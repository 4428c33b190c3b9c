"""One episode at a time in plain Python integers, written from the description in csrc/sampler/draws.h alone."""

from __future__ import annotations

import numpy as np

from maml_fast.data._bank import ImageBank
from maml_fast.data._episodes import EpisodeSampler

SCALED = {
    "unit": lambda x: np.float32(x) / np.float32(255),
    "raw": np.float32,
    "inverted": lambda x: np.float32(1) - np.float32(x) / np.float32(255),
}


def philox_words(counter: tuple[int, int, int, int], key: int) -> list[int]:
    a, b, c, d = counter
    k0, k1 = key % 2**32, key >> 32
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q % 2**32, (p >> 32) ^ d ^ k1, p % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def shuffled(seed: int, episode: int, stream: int, n: int, k: int) -> list[int]:
    places = list(range(n))
    for i in range(k):
        low, high, _, _ = philox_words((episode % 2**32, episode >> 32, i, stream), seed)
        j = i + (high * 2**32 + low) * (n - i) // 2**64
        places[i], places[j] = places[j], places[i]
    return places[:k]


def episode(sampler: EpisodeSampler, number: int) -> list[np.ndarray]:
    """Return x_spt [N*K, C, H, W], y_spt [N*K], x_qry and y_qry of the episode with this number."""
    bank, seed, k_shot = sampler.bank, sampler.seed, sampler.k_shot
    support, query = [], []  # (class, image, label, turns), by label
    for label, chosen in enumerate(shuffled(seed, number, 0, bank.n_classes, sampler.n_way)):
        high = philox_words((number % 2**32, number >> 32, label, 1), seed)[1]
        turns = high >> 30 if sampler.rotate else 0
        images = shuffled(seed, number, 4 + label, int(bank.counts[chosen]), k_shot + sampler.k_query)
        support += [(chosen, image, label, turns) for image in images[:k_shot]]
        query += [(chosen, image, label, turns) for image in images[k_shot:]]
    arrays = []
    for stream, items in ((2, support), (3, query)):
        ordered = [items[place] for place in shuffled(seed, number, stream, len(items), len(items))]
        arrays.append(np.stack([_pixels(bank, c, image, turns, sampler.scale) for c, image, _, turns in ordered]))
        arrays.append(np.array([label for _, _, label, _ in ordered], dtype=np.int64))
    return arrays


def _pixels(bank: ImageBank, chosen: int, image: int, turns: int, scale: str) -> np.ndarray:
    turned = np.stack([np.rot90(channel, turns) for channel in bank[chosen][image]])
    return np.vectorize(SCALED[scale], otypes=[np.float32])(turned)

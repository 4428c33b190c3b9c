"""Augmented episodes in plain Python integers, pixel by pixel, as csrc/sampler/draws.h and augment.h describe them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from episode_oracle import episode, philox_words, shuffled

from maml_fast.data import EpisodeSampler


def augmented_episode(sampler: EpisodeSampler, number: int) -> list[np.ndarray]:
    """Return x_spt [N*K, C, H, W], y_spt [N*K], x_qry and y_qry of the episode with this number, in raw pixels.

    Every image is found in the plain, upright episode, augmented, and rotated as its class is.
    """
    plain = replace(sampler, crop_padding=0, flip=False, color_jitter=0.0, rotate=False, prefetch=0)
    arrays = episode(plain, number)
    turns = [philox_words((number % 2**32, number >> 32, label, 1), sampler.seed)[1] >> 30 for label in range(99)]
    for half, (stream, order_stream) in enumerate(((2**32 - 16, 2), (2**32 - 8, 3))):
        x, y = arrays[2 * half], arrays[2 * half + 1]
        items = shuffled(sampler.seed, number, order_stream, len(y), len(y))
        for place, (item, label) in enumerate(zip(items, y.tolist(), strict=True)):
            image = augmented(sampler, number, stream, item, x[place].astype(int).tolist())
            x[place] = np.rot90(np.array(image), turns[label] if sampler.rotate else 0, axes=(1, 2))
    return arrays


def augmented(sampler: EpisodeSampler, number: int, stream: int, item: int, image: list) -> list:
    def below(draw: int, n: int) -> int:
        low, high, _, _ = philox_words((number % 2**32, number >> 32, item, stream + draw), sampler.seed)
        return (high * 2**32 + low) * n // 2**64

    channels, height, width = len(image), len(image[0]), len(image[0][0])
    padding, reach = sampler.crop_padding, round(4096 * sampler.color_jitter)
    row, column = (below(draw, 2 * padding + 1) - padding if padding else 0 for draw in (0, 1))
    flip = sampler.flip and below(2, 2) == 1
    brightness, contrast, saturation = (4096 + (below(d, 2 * reach + 1) - reach if reach else 0) for d in (3, 4, 5))

    if channels == 3:
        weighed = sum(w * sum(map(sum, plane)) for w, plane in zip((77, 150, 29), image, strict=True))
        mean = weighed // (4 * height * width)
    else:
        mean = 64 * sum(sum(map(sum, plane)) for plane in image) // (channels * height * width)

    out = [[[0] * width for _ in range(height)] for _ in range(channels)]
    for y in range(height):
        for x in range(width):
            from_x = width - 1 - x if flip else x
            at_y, at_x = min(max(y + row, 0), height - 1), min(max(from_x + column, 0), width - 1)
            levels = [contrast * 64 * plane[at_y][at_x] + (4096 - contrast) * mean >> 12 for plane in image]
            levels = [brightness * level >> 12 for level in levels]
            if channels == 3:
                gray = 77 * levels[0] + 150 * levels[1] + 29 * levels[2] >> 8
                levels = [saturation * level + (4096 - saturation) * gray >> 12 for level in levels]
            for c, level in enumerate(levels):
                out[c][y][x] = min(max(level + 32 >> 6, 0), 255)
    return out

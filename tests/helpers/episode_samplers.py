"""Banks whose classes differ in size, samplers of all kinds over them, and when their episodes are the same."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from maml_fast.data._bank import ImageBank
from maml_fast.data._episodes import Episodes, EpisodeSampler


def ragged_bank(counts: list[int], image_shape: tuple[int, ...] = (1, 2, 2), seed: int = 0) -> ImageBank:
    """Random pixels; classes lie in the array in reverse order with a gap between them."""
    total = sum(counts) + len(counts)
    pixels = np.random.default_rng(seed).integers(0, 256, (total, *image_shape), dtype=np.uint8)
    starts = np.cumsum([0, *(count + 1 for count in counts[:0:-1])])[::-1]
    names = tuple(f"class {i}" for i in range(len(counts)))
    return ImageBank(pixels, starts, np.array(counts), names, "ragged")


def assert_same(actual: Episodes, expected: Episodes) -> None:
    for x, y in zip(actual, expected, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.numpy(), y.numpy())


@st.composite
def samplers(draw: st.DrawFn, image_shape: tuple[int, int, int] | None = None) -> EpisodeSampler:
    n_way, k_shot, k_query = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    least = k_shot + k_query
    counts = draw(st.lists(st.integers(least, least + 6), min_size=n_way, max_size=n_way + 6))
    rotate = draw(st.booleans())
    if image_shape is None:
        channels, height, width = draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
        image_shape = (channels, height, height if rotate else width)
    return EpisodeSampler(
        ragged_bank(counts, image_shape),
        n_way,
        k_shot,
        k_query,
        meta_batch_size=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**64 - 1)),
        scale=draw(st.sampled_from(["unit", "raw", "inverted"])),
        rotate=rotate,
        start_episode=draw(st.integers(0, 2**63 - 1)),
    )

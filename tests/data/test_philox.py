"""Philox4x32-10 against published vectors, bounded integers against exact arithmetic, and the layout of the draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_fast.data import _philox as philox

pytestmark = pytest.mark.backendless

WORD = st.integers(0, 2**32 - 1)
SEED = st.integers(0, 2**64 - 1)

# From the kat_vectors file of Random123 (D. E. Shaw Research): counter, key words, output.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    low, high = words(key)
    c0, c1, c2, c3 = words(counter)
    assert tuple(int(word) for word in philox.philox4x32((c0, c1, c2, c3), low | high << 32)) == words(expected)


def test_known_answers_hold_inside_arrays() -> None:
    counters = np.array([words(counter) for counter, _, _ in KNOWN_ANSWERS])  # [3, 4]
    c0, c1, c2, c3 = counters.T
    for row, (_, key, expected) in enumerate(KNOWN_ANSWERS):
        low, high = words(key)
        outputs = philox.philox4x32((c0, c1, c2, c3), low | high << 32)
        assert tuple(int(word[row]) for word in outputs) == words(expected)


@settings(deadline=None)
@given(seed=SEED, episode=SEED, stream=WORD, index=WORD, n=st.integers(1, 2**32 - 1))
def test_below_is_the_high_word_of_an_exact_product(seed: int, episode: int, stream: int, index: int, n: int) -> None:
    counter = (episode % 2**32, episode // 2**32, index, stream)
    low, high, _, _ = (int(word) for word in philox.philox4x32(counter, seed))
    drawn = int(philox.below(seed, np.uint64(episode), stream, index, n))
    assert drawn == ((high * 2**32 + low) * n) // 2**64
    assert 0 <= drawn < n


def test_below_broadcasts() -> None:
    table = philox.below(5, np.arange(3)[:, None], 2, np.arange(4), np.array([10, 20, 30, 40]))
    assert table.shape == (3, 4)
    assert table[2, 1] == philox.below(5, 2, 2, 1, 20)


@settings(deadline=None)
@given(seed=SEED, episode=SEED, stream=WORD, index=WORD)
def test_uniform_is_the_upper_bits_as_a_share_of_one(seed: int, episode: int, stream: int, index: int) -> None:
    low, high, _, _ = (
        int(word) for word in philox.philox4x32((episode % 2**32, episode // 2**32, index, stream), seed)
    )
    drawn = philox.uniform(seed, np.uint64(episode), stream, index)
    assert float(drawn) == ((high * 2**32 + low) >> 11) / 2**53
    assert 0 <= drawn < 1
    assert np.array_equal(philox.uniform(seed, np.full((2, 1), episode, np.uint64), stream, [index]), [[drawn]] * 2)


@pytest.mark.parametrize("part", ["seed", "seed high", "episode", "episode high", "stream", "index"])
def test_every_part_of_the_counter_matters(part: str) -> None:
    bits = {"seed": (1, 0, 0, 0), "episode": (0, 1, 0, 0), "stream": (0, 0, 1, 0), "index": (0, 0, 0, 1)}
    seed, episode, stream, index = (x << (32 if "high" in part else 0) for x in bits[part.split()[0]])
    assert philox.below(0, 0, 0, 0, 2**31) != philox.below(seed, episode, stream, index, 2**31)


def test_draws_of_episodes_do_not_depend_on_their_neighbors() -> None:
    counts = np.array([9, 7, 12, 8, 30])
    together = philox.draw_episodes(3, np.arange(6), counts, 3, 2, 4, True)
    for e in range(6):
        alone = philox.draw_episodes(3, np.array([e]), counts, 3, 2, 4, True)
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(many[e : e + 1], one)


def test_the_layout_of_the_draws_is_pinned() -> None:
    """A seed means the same episodes in every version; whoever changes this breaks everybody's records."""
    draws = philox.draw_episodes(3, np.array([1]), np.array([20, 30, 17, 25, 20]), 3, 2, 5, True)
    assert draws.classes.tolist() == [[2, 3, 4]]
    assert draws.images[0].tolist() == [[1, 4, 15, 10, 2, 11, 6], [16, 4, 9, 21, 18, 6, 17], [11, 13, 9, 14, 6, 18, 15]]
    assert draws.turns.tolist() == [[2, 1, 1]]
    assert draws.support_order.tolist() == [[0, 2, 1, 3, 5, 4]]
    assert draws.query_order.tolist() == [[10, 1, 9, 0, 8, 11, 2, 13, 5, 12, 4, 7, 3, 14, 6]]

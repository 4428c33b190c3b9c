"""The embedded data set: invented characters made of random pen strokes, with the variation of handwriting.

An alphabet is a small vocabulary of strokes. Its characters combine a few of them and therefore look alike, as those of
real alphabets do. Every drawing of a character moves the strokes and their knots; it rotates, slants, stretches and
shifts the character, and uses a pen of another width.

The same seed gives the same bytes on every machine. Random numbers come from NumPy's RandomState, whose streams are
frozen, and pixels are computed from them only by operations that IEEE 754 rounds exactly (no sine, no logarithm, no
matrix product).
"""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState

from maml_fast._arguments import function, int_from, optional, takes
from maml_fast.data import _pen as pen
from maml_fast.data._bank import ImageBank
from maml_fast.data._dataset import SEED, DataSet, Options, Progress, check_seed
from maml_fast.data._splits import first_and_rest

__all__ = ["CHARACTERS_PER_ALPHABET", "draw_strokes", "load_strokes"]

CHARACTERS_PER_ALPHABET = 20
_VOCABULARY = 8  # strokes per alphabet
_KNOTS = 6  # points per stroke that the pen passes through
_EXTENT = 0.68  # longer side of a character, in units of the paper's side

# Variation of the drawings of a character: standard deviations, in units of the paper's side or as ratios.
_KNOT_JITTER = 0.018
_STROKE_JITTER = 0.02
_SHIFT = 0.06
_HALF_TURN = 0.07  # tangent of half the angle: 8 degrees
_SLANT = 0.08
_STRETCH = 0.08
_THINNEST, _THICKEST = 0.0178, 0.0446  # reach of the ink: pens 1.2 to 2.2 pixels wide at 28 x 28


@takes(n_classes=int_from(1), n_images=int_from(1), size=int_from(8), seed=SEED, progress=optional(function()))
def draw_strokes(
    n_classes: int = 400, n_images: int = 20, *, size: int = 28, seed: int = 0, progress: Progress | None = None
) -> ImageBank:
    """Draw `n_images` of each of `n_classes` invented characters, black on white as in Omniglot.

    Classes are named ``alphabetNN/characterNN``, with 20 characters per alphabet. Class `i` is the same for every
    `n_classes`.

    Args:
        n_classes: number of characters.
        n_images: drawings per character.
        size: pixels per side, at least 8.
        seed: 0 to 2**32 - 1.
        progress: called with (classes done, n_classes).

    Returns:
        A bank of ``n_classes * n_images`` images of shape ``(1, size, size)``.

    Raises:
        TypeError, ValueError: a number is not an integer or is out of range, or ``progress`` is not a function.
    """
    images = np.empty((n_classes, n_images, 1, size, size), np.uint8)
    names = []
    for i in range(n_classes):
        alphabet, character = divmod(i, CHARACTERS_PER_ALPHABET)
        random = _random(seed, alphabet, character + 1)
        knots = _character(random, _vocabulary(_random(seed, alphabet, 0)))
        widths = _THINNEST + (_THICKEST - _THINNEST) * random.random_sample(n_images)
        images[i, :, 0] = pen.draw(_drawings(random, knots, n_images), widths, size)
        names.append(f"alphabet{alphabet + 1:02d}/character{character + 1:02d}")
        if progress:
            progress(i + 1, n_classes)
    return ImageBank.from_array(images, names, "strokes")


def load_strokes(options: Options) -> DataSet:
    """Load data set "strokes": 400 characters, the first 15 alphabets for training and the other 5 for testing."""
    options.allow("strokes", "image_size", "seed")
    bank = draw_strokes(
        size=28 if options.image_size is None else options.image_size,
        seed=check_seed(options.seed),
        progress=options.progress,
    )
    return DataSet.of(bank, first_and_rest("first-300", bank.class_names, 300))


def _random(seed: int, alphabet: int, character: int) -> RandomState:
    return RandomState([seed, alphabet, character])


def _bell(random: RandomState, *shape: int) -> np.ndarray:
    """Return approximately normal numbers of variance 1: sums of three uniform ones, which need no logarithm."""
    a, b, c = random.random_sample((3, *shape))
    return 2.0 * (a + b + c - 1.5)


def _turned(x: np.ndarray, y: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotate (x, y) by the angle whose half has tangent `t`, without sin and cos, which differ between machines."""
    cos, sin = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    return x * cos - y * sin, x * sin + y * cos


def _vocabulary(random: RandomState) -> np.ndarray:
    """Return the strokes of an alphabet ``[_VOCABULARY, _KNOTS, 2]``, centered at 0, with longer side 1.

    The pen moves in steps of equal length, straight or along an arc; at one knot it may turn a corner, or reverse the
    arc's curvature.
    """
    n = _VOCABULARY
    path = np.zeros((n, _KNOTS, 2))
    dx, dy = _turned(np.ones(n), np.zeros(n), 4.0 * random.random_sample(n) - 2.0)
    bend = np.array([0.0, 0.12, 0.3, 0.5])[random.randint(0, 4, n)] * (2 * random.randint(0, 2, n) - 1)
    eventful_knot, event = random.randint(1, _KNOTS, n), random.randint(0, 3, n)
    for k in range(1, _KNOTS):
        path[:, k, 0] = path[:, k - 1, 0] + dx
        path[:, k, 1] = path[:, k - 1, 1] + dy
        here = eventful_knot == k
        corner = np.where(here & (event == 1), 0.5 + 0.5 * random.random_sample(n), 0.0)
        bend = np.where(here & (event == 2), -bend, bend)
        dx, dy = _turned(dx, dy, bend + corner + 0.06 * _bell(random, n))
    low, high = path.min(axis=1, keepdims=True), path.max(axis=1, keepdims=True)
    return (path - 0.5 * (low + high)) / (high - low).max(axis=2, keepdims=True)


def _character(random: RandomState, vocabulary: np.ndarray) -> np.ndarray:
    """Return a character's strokes ``[S, _KNOTS, 2]``, centered at 0, with longer side `_EXTENT`."""
    while True:
        knots = _composed(random, vocabulary)
        low, high = knots.min(axis=(0, 1)), knots.max(axis=(0, 1))
        sides = high - low
        if sides.min() > 0.4 * sides.max():  # reject characters that are almost a line
            return (knots - 0.5 * (low + high)) * (_EXTENT / sides.max())


def _composed(random: RandomState, vocabulary: np.ndarray) -> np.ndarray:
    """Choose two to four strokes and place them: ``[S, _KNOTS, 2]``."""
    n_strokes = (2, 2, 3, 3, 3, 4)[random.randint(0, 6)]
    placed: list[np.ndarray] = []
    for number in random.permutation(len(vocabulary))[:n_strokes]:
        stroke = vocabulary[number] * (0.55 + 0.45 * random.random_sample())
        if placed and random.random_sample() < 0.75:  # most strokes touch an earlier one
            touched = placed[random.randint(0, len(placed))][random.randint(0, _KNOTS)]
            stroke = stroke + touched - stroke[(0, _KNOTS // 2, _KNOTS - 1)[random.randint(0, 3)]]
        elif placed:
            stroke = stroke + 0.7 * (random.random_sample(2) - 0.5)
        placed.append(stroke)
    return np.stack(placed)


def _drawings(random: RandomState, knots: np.ndarray, n: int) -> np.ndarray:
    """Vary the strokes ``[S, _KNOTS, 2]`` of a character `n` times: ``[n, S, _KNOTS, 2]`` in the unit square."""
    tremor = _bell(random, n, len(knots), _KNOTS + 1, 2)
    tremor = 0.7 * (tremor[:, :, 1:] + tremor[:, :, :-1])  # neighbors move together
    points = knots + _KNOT_JITTER * tremor + _STROKE_JITTER * _bell(random, n, len(knots), 1, 2)
    stretch_x, stretch_y, slant, turn, shift_x, shift_y = _bell(random, 6, n, 1, 1)
    x = points[..., 0] * (1.0 + _STRETCH * stretch_x) + points[..., 1] * (_SLANT * slant)  # [n, S, _KNOTS]
    y = points[..., 1] * (1.0 + _STRETCH * stretch_y)
    x, y = _turned(x, y, _HALF_TURN * turn)
    return np.stack([x + 0.5 + _SHIFT * shift_x, y + 0.5 + _SHIFT * shift_y], axis=-1)

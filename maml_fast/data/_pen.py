"""Draws strokes with a round pen, in integer arithmetic once the points of a stroke are known."""

from __future__ import annotations

import numpy as np

__all__ = ["draw"]

_SAMPLES = 32  # dots per interval between knots, closer together than the pen is wide
_OVERSAMPLE = 4  # how many times finer the grid of ink is than the image


def draw(knots: np.ndarray, widths: np.ndarray, size: int) -> np.ndarray:
    """Draw `n` characters, black on white.

    Args:
        knots: float64 ``[n, strokes, K, 2]``, the points (x, y) that the pen passes through, with y pointing down; the
            paper is the unit square, and ink outside it is cut off.
        widths: float64 ``[n]``, how far the ink reaches from the pen's path, as a fraction of the paper's side.
        size: pixels per side.

    Returns:
        uint8 ``[n, size, size]``.
    """
    n, grid = len(knots), size * _OVERSAMPLE
    cells = np.floor(_curve(knots).reshape(n, -1, 2) * grid).astype(np.int64)  # [n, dots, 2]
    which, dot = np.nonzero(((cells >= 0) & (cells < grid)).all(axis=2))
    ink = np.zeros((n, grid, grid), bool)
    ink[which, cells[which, dot, 1], cells[which, dot, 0]] = True
    reach = np.maximum(np.floor(widths * grid).astype(np.int64), 1)
    for step in range(reach.max()):
        growing = reach > step
        ink[growing] = _thicker(ink[growing], diagonally=step % 2 == 1)  # alternating, for an octagonal pen
    covered = ink.reshape(n, size, _OVERSAMPLE, size, _OVERSAMPLE).sum(axis=(2, 4), dtype=np.int64)
    return (255 - covered * 255 // _OVERSAMPLE**2).astype(np.uint8)


def _curve(knots: np.ndarray) -> np.ndarray:
    """Interpolate knots ``[..., K, 2]`` by a Catmull-Rom spline: ``[..., (K - 1) * _SAMPLES, 2]``."""
    before, after = 2 * knots[..., :1, :] - knots[..., 1:2, :], 2 * knots[..., -1:, :] - knots[..., -2:-1, :]
    padded = np.concatenate([before, knots, after], axis=-2)
    a, b, c, d = (padded[..., i : i + knots.shape[-2] - 1, None, :] for i in range(4))
    t = (np.arange(_SAMPLES) / _SAMPLES)[:, None]
    points = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return points.reshape(*knots.shape[:-2], -1, 2)


def _thicker(ink: np.ndarray, diagonally: bool) -> np.ndarray:
    """Grow ink ``[n, grid, grid]`` by one cell to each side, and to each corner if ``diagonally`` is set."""
    upright = ink.copy()
    upright[:, 1:] |= ink[:, :-1]
    upright[:, :-1] |= ink[:, 1:]
    sideways = upright if diagonally else ink
    grown = upright.copy()
    grown[:, :, 1:] |= sideways[:, :, :-1]
    grown[:, :, :-1] |= sideways[:, :, 1:]
    return grown

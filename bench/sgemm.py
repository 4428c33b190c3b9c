"""The machine's speed: the best that a large float32 matrix product reaches here, now, on all cores or on the GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from place import Place
from rounds import seconds_of

SIZES = {"cpu": 4096, "cuda": 8192}  # large enough for the peak
QUICK = 512


def peaks(place: Place, size: int, rounds: int = 5) -> dict[str, float]:
    """GFLOP/s by who multiplies, the best of some rounds, in a process that keeps to the place."""
    return {name: _best(product, size, rounds) for name, product in _products(place, size).items()}


def _products(place: Place, size: int) -> dict[str, Callable[[], object]]:
    """On the CPU NumPy's sgemm and torch's; on a GPU torch's, at the place's precision."""
    a, b, out = (torch.rand(size, size, device=place.device) for _ in range(3))

    def torchs() -> object:
        return torch.mm(a, b, out=out)

    if place.device == "cuda":
        return {f"torch.mm on cuda, {place.precision}": torchs}
    arrays = a.numpy(), b.numpy(), out.numpy()
    return {"numpy": lambda: np.matmul(arrays[0], arrays[1], out=arrays[2]), "torch": torchs}


def _best(product: Callable[[], object], size: int, rounds: int) -> float:
    product()
    return 2 * size**3 / min(seconds_of(product) for _ in range(rounds)) / 1e9

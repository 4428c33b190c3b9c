"""The machine's speed: the best that a large float32 matrix product reaches here, now, on all cores."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch


def peaks(size: int = 4096, rounds: int = 5) -> dict[str, float]:
    """GFLOP/s of NumPy's and of torch's sgemm, the best of some rounds; torch takes ``torch.get_num_threads()``."""
    a = torch.rand(size, size)
    b, out = torch.rand(size, size), torch.empty(size, size)
    arrays = a.numpy(), b.numpy(), out.numpy()
    return {
        "numpy": _best(lambda: np.matmul(arrays[0], arrays[1], out=arrays[2]), size, rounds),
        "torch": _best(lambda: torch.mm(a, b, out=out), size, rounds),
    }


def _best(product: Callable[[], object], size: int, rounds: int) -> float:
    product()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9

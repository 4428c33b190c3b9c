"""Regression on sine waves, the first experiment of Finn et al. 2017 (section 5.1)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor

from maml_fast._arguments import settle, whole
from maml_fast.data._episodes import Episodes
from maml_fast.data._numbered import NumberedEpisodes
from maml_fast.data._philox import uniform

__all__ = ["SinusoidSampler"]

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, np.pi)
INPUTS = (-5.0, 5.0)

AMPLITUDE_STREAM, PHASE_STREAM, SUPPORT_STREAM, QUERY_STREAM = range(4)


@dataclass(frozen=True, eq=False)
class SinusoidSampler(NumberedEpisodes):
    """Draws sine waves to regress on, a meta-batch at a time.

    A task is ``y = amplitude * sin(x - phase)``, its amplitude uniform in [0.1, 5], its phase in [0, π]; its points
    have x uniform in [-5, 5]. All four tensors are float32, x and y alike: [T, k_shot, 1] and [T, k_query, 1].

    Episode ``e`` of a seed is always the same, whatever the meta-batch size: its random numbers come from
    Philox4x32-10, keyed by the seed and counted by the episode. (The sine is NumPy's; another machine's may differ in
    the last bit.)

    Args:
        k_shot: support points.
        k_query: query points.
        meta_batch_size: tasks of a meta-batch, ``T``.
        seed: 0 to 2**64 - 1.
        start_episode: number of the first episode.
        batches: meta-batches in one iteration; None for no end.
        stride: from the first episode of a meta-batch to that of the next; None for `meta_batch_size`. What is left out
            between them is another process's part (:func:`maml_fast.distributed.shard`).

    Raises:
        TypeError, ValueError: a parameter is of the wrong type or out of range.
    """

    k_shot: int = 10
    k_query: int = 10
    meta_batch_size: int = 25
    seed: int = 0
    _: KW_ONLY
    start_episode: int = 0
    batches: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        settle(self, k_shot=whole(1), k_query=whole(1))
        self._check_numbering()

    def waves(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the amplitudes and the phases, float64 ``[T]`` each, of meta-batch `i`."""
        return self._waves(self._run_of_numbers(self._first_episode(i)))

    def _episodes_from(self, first: int) -> Episodes:
        episodes = self._run_of_numbers(first)
        support = self._points(episodes, SUPPORT_STREAM, self.k_shot)
        return Episodes(*support, *self._points(episodes, QUERY_STREAM, self.k_query))

    def _waves(self, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        amplitudes = _between(AMPLITUDES, uniform(self.seed, episodes, AMPLITUDE_STREAM, 0))
        return amplitudes, _between(PHASES, uniform(self.seed, episodes, PHASE_STREAM, 0))

    def _points(self, episodes: np.ndarray, stream: int, number: int) -> tuple[Tensor, Tensor]:
        amplitudes, phases = (each[:, None] for each in self._waves(episodes))
        x = _between(INPUTS, uniform(self.seed, episodes[:, None], stream, np.arange(number)))  # [T, number]
        return _column(x), _column(amplitudes * np.sin(x - phases))


def _between(bounds: tuple[float, float], u: np.ndarray) -> np.ndarray:
    """Bring numbers from [0, 1) to lie between these bounds."""
    low, high = bounds
    return low + (high - low) * u


def _column(values: np.ndarray) -> Tensor:
    """[T, number] to [T, number, 1] in float32."""
    return torch.from_numpy(values.astype(np.float32))[..., None]

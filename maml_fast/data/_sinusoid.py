"""Regression on sine waves, the first experiment of Finn et al. (2017, section 5.1)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor

from maml_fast._arguments import check_fields, int_from
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
    """Draws sine-wave regression tasks, one meta-batch at a time.

    A task is ``y = amplitude * sin(x - phase)`` with the amplitude uniform in [0.1, 5] and the phase uniform in [0, π];
    its points have x uniform in [-5, 5]. All four tensors are float32: x and y are [T, k_shot, 1] in the support set
    and [T, k_query, 1] in the query set.

    Episode ``e`` of a seed is always the same, whatever the meta-batch size: its random numbers come from
    Philox4x32-10, with the seed as the key and the episode number in the counter. (The sine is NumPy's; on another
    machine it may differ in the last bit.)

    Args:
        k_shot: support points per task.
        k_query: query points per task.
        meta_batch_size: tasks per meta-batch, ``T``.
        seed: 0 to 2**64 - 1.
        start_episode: number of the first episode.
        batches: meta-batches per iteration; None for an endless sampler.
        stride: how many episodes lie between the first episodes of successive meta-batches; None for `meta_batch_size`.
            The episodes that a larger stride skips belong to other processes (:func:`maml_fast.distributed.shard`).

    Raises:
        TypeError, ValueError: a parameter has the wrong type or is out of range.
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
        check_fields(self, k_shot=int_from(1), k_query=int_from(1))
        self._check_numbering()

    def waves(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the amplitudes and the phases of meta-batch `i`, float64 ``[T]`` each."""
        return self._waves(self._episode_numbers(self._first_episode(i)))

    def _episodes_from(self, first: int) -> Episodes:
        episodes = self._episode_numbers(first)
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
    low, high = bounds
    return low + (high - low) * u


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[..., None]  # [T, number, 1]

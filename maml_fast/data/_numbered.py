"""The base class of all episode samplers: episodes are numbered, and a meta-batch is a range of numbers."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset

from maml_fast._arguments import check_fields, int_from, integer, optional

if TYPE_CHECKING:
    from maml_fast.data._episodes import Episodes

__all__ = ["NumberedEpisodes"]


class NumberedEpisodes(Dataset["Episodes"]):
    """Base class of samplers in which episode ``e`` of a seed is always the same.

    Iterate over it (every ``iter`` starts again at ``start_episode``), or get any meta-batch by `batch`. If ``batches``
    is set, it is also a map-style data set: ``DataLoader(sampler, batch_size=None)``.

    A subclass is a frozen dataclass with the attributes below, and implements ``_episodes_from``.
    """

    meta_batch_size: int  # episodes per meta-batch, T
    start_episode: int
    batches: int | None  # meta-batches per iteration; None for an endless sampler
    stride: int | None  # episodes between the first ones of successive meta-batches; None for meta_batch_size

    @abstractmethod
    def _episodes_from(self, first: int) -> Episodes:
        """Return the ``meta_batch_size`` episodes from number `first` on; thread-safe."""

    def batch(self, i: int) -> Episodes:
        """Return meta-batch `i`: the episodes from ``start_episode + i * stride`` on. Thread-safe.

        Raises:
            IndexError: `i` is negative, or not below `batches`.
            TypeError: `i` is not an integer.
        """
        return self._episodes_from(self._first_episode(i))

    def __getitem__(self, i: int) -> Episodes:
        """Return ``batch(i)``, for DataLoader."""
        return self.batch(i)

    def __len__(self) -> int:
        if self.batches is None:
            raise TypeError(f"this {type(self).__name__} is endless and has no length; give it batches=...")
        return self.batches

    def __iter__(self) -> Iterator[Episodes]:
        return map(self.batch, self._numbers())

    def _check_numbering(self) -> None:
        check_fields(
            self, meta_batch_size=int_from(1), seed=int_from(0, 2**64 - 1), start_episode=int_from(0, 2**63 - 1)
        )
        check_fields(self, batches=optional(int_from(1)), stride=optional(int_from(1)))

    @property
    def numbers_per_batch(self) -> int:
        """The distance between the first episodes of successive meta-batches."""
        return self.meta_batch_size if self.stride is None else self.stride

    def _numbers(self) -> Iterable[int]:
        return itertools.count() if self.batches is None else range(self.batches)

    def _first_episode(self, i: int) -> int:
        i = integer("i", i)
        if i < 0 or (self.batches is not None and i >= self.batches):
            held = "no end of them" if self.batches is None else f"{self.batches}"
            raise IndexError(f"there is no meta-batch {i}; this sampler has {held}, counted from 0")
        first = self.start_episode + i * self.numbers_per_batch
        if first + self.meta_batch_size > 2**64:
            raise IndexError(f"meta-batch {i} needs episode numbers beyond 2**64 - 1, the last")
        return first

    def _episode_numbers(self, first: int) -> np.ndarray:
        return np.uint64(first) + np.arange(self.meta_batch_size, dtype=np.uint64)  # [T]

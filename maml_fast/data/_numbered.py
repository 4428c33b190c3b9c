"""What all samplers of episodes have in common: their episodes are numbered, and a meta-batch is a run of numbers."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset

from maml_fast._arguments import integer, optional, settle, whole

if TYPE_CHECKING:
    from maml_fast.data._episodes import Episodes

__all__ = ["NumberedEpisodes"]


class NumberedEpisodes(Dataset["Episodes"]):
    """The meta-batches of a sampler whose episode ``e`` of a seed is always the same.

    Iterate over it (every ``iter`` starts anew at ``start_episode``), or take any meta-batch by `batch`. With
    ``batches`` given it is a map-style data set too: ``DataLoader(sampler, batch_size=None)``.

    What derives from it is a frozen dataclass with the attributes below, and makes the episodes.
    """

    meta_batch_size: int  # episodes of a meta-batch, T
    start_episode: int
    batches: int | None  # meta-batches in one iteration; None for no end
    stride: int | None  # from the first episode of a meta-batch to that of the next; None for meta_batch_size

    @abstractmethod
    def _episodes_from(self, first: int) -> Episodes:
        """The ``meta_batch_size`` episodes from number `first` on. Safe in many threads."""

    def batch(self, i: int) -> Episodes:
        """Return meta-batch `i`: the episodes from ``start_episode + i * stride`` on. Safe in many threads.

        Raises IndexError where `i` is negative or beyond `batches`, TypeError where it is no whole number.
        """
        return self._episodes_from(self._first_episode(i))

    def __getitem__(self, i: int) -> Episodes:
        """Return ``batch(i)``: what a DataLoader calls."""
        return self.batch(i)

    def __len__(self) -> int:
        if self.batches is None:
            raise TypeError(f"this {type(self).__name__} is endless and has no length; give it batches=...")
        return self.batches

    def __iter__(self) -> Iterator[Episodes]:
        return map(self.batch, self._numbers())

    def _check_numbering(self) -> None:
        settle(self, meta_batch_size=whole(1), seed=whole(0, 2**64 - 1), start_episode=whole(0, 2**63 - 1))
        settle(self, batches=optional(whole(1)), stride=optional(whole(1)))

    @property
    def numbers_per_batch(self) -> int:
        """How far the numbers go on from one meta-batch to the next."""
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

    def _run_of_numbers(self, first: int) -> np.ndarray:
        """Return the episodes' numbers, uint64 ``[T]``."""
        return np.uint64(first) + np.arange(self.meta_batch_size, dtype=np.uint64)

"""Episodes for meta-learning: what they are, and the sampler that draws them from an image bank."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_fast import _arguments as arguments
from maml_fast import native
from maml_fast._arguments import choice, flag, instance, optional, settle, takes, whole
from maml_fast.data import _checks as checks
from maml_fast.data import _numpy_sampler as numpy_sampler
from maml_fast.data._bank import ImageBank
from maml_fast.data._gpu_sampler import GpuSampler, can_draw, check_device, check_is_here
from maml_fast.data._numbered import NumberedEpisodes

__all__ = ["EpisodeSampler", "Episodes", "check_episodes"]

MAX_SHUFFLE = 2**31  # places that one shuffle of the sampler can have


class Episodes(NamedTuple):
    """``T`` episodes of ``N`` classes: ``K`` labeled images per class to adapt to, ``Q`` to be judged on.

    A plain tuple of tensors in this order; ``Episodes(x_spt, y_spt, x_qry, y_qry)`` makes one from tensors of your own.
    Images may have any shape beyond the first two dimensions.
    """

    x_spt: Tensor  # [T, N*K, C, H, W], float
    y_spt: Tensor  # [T, N*K], int64
    x_qry: Tensor  # [T, N*Q, C, H, W]
    y_qry: Tensor  # [T, N*Q]

    @property
    def meta_batch_size(self) -> int:
        """The number of episodes, ``T``."""
        return self.x_spt.shape[0]

    @takes(dtype=optional(instance(torch.dtype, "use one such as torch.float32")), non_blocking=flag)
    def to(
        self,
        device: torch.device | str | int | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        *,
        non_blocking: bool = False,
    ) -> Episodes:
        """Move to a device, a dtype, or both; either may come first or alone. Integer labels keep their dtype.

        Raises:
            TypeError, ValueError: for what is no device and no dtype, or four parts that are not tensors.
            RuntimeError: for a GPU where there is none.
        """
        checks.check_tensors(self, self._fields)
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        place = None if device is None else arguments.device("device", device)
        if place is not None and place.type == "cuda":
            check_is_here(place)

        def move(tensor: Tensor) -> Tensor:
            kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
            return tensor.to(device=device, dtype=kept, non_blocking=non_blocking)

        return Episodes(*map(move, self))


def check_episodes(
    episodes: Sequence[Tensor],
    n_way: int | None = None,
    *,
    classification: bool = True,
    values: bool | None = None,
    ignored: int | None = None,
) -> Episodes:
    """Return these four tensors as `Episodes`, or say what is wrong with them.

    Args:
        episodes: x_spt, y_spt, x_qry, y_qry.
        n_way: labels must be below it, where it is given.
        classification: labels must be int64 class numbers ``[T, N*K]``; if False, `y_spt` and `y_qry` may hold any
            targets ``[T, N*K, ...]``, and what is support and query may differ in shape, as sequences do in length.
        values: whether to look for labels out of range, NaN and infinity. None looks where the tensors are on the CPU:
            elsewhere a look makes the program wait for the accelerator, so there it takes a True.
        ignored: a label that may stand for none, as -100 does under cross-entropy.

    Raises:
        TypeError: not four tensors, images that are not floating point, labels that are not int64.
        ValueError: shapes, devices or dtypes that disagree, no images, labels out of range, NaN or infinity.
    """
    checks.check_tensors(episodes, Episodes._fields)
    checked = Episodes(*episodes)
    checks.check_shapes(checked, classification)
    checks.check_types(checked, classification)
    if checked.x_spt.device.type == "cpu" if values is None else values:
        checks.check_values(checked, n_way, classification, ignored)
    return checked


@dataclass(frozen=True, eq=False, repr=False)
class EpisodeSampler(NumberedEpisodes):
    """Draws few-shot episodes from an image bank, a meta-batch at a time.

    An episode has ``n_way`` distinct classes, labeled 0 to ``n_way - 1`` in the order they were drawn, and of each
    ``k_shot`` support and ``k_query`` query images, all distinct; support and query are each shuffled. Episode number
    ``e`` of a seed is always the same, bit for bit, whatever the meta-batch size, threads, prefetching or backend: its
    random numbers come from Philox4x32-10, keyed by the seed and counted by the episode.

    Iterate over it (every ``iter`` starts anew at `start_episode`), or take any meta-batch by `batch`. Iteration
    prefetches in native threads. With `batches` given it is a map-style data set too, so that
    ``DataLoader(sampler, batch_size=None, num_workers=2)`` yields the same meta-batches in the same order.

    Args:
        bank: where the images come from; they stay uint8 and are not copied.
        n_way: classes per episode.
        k_shot: support images per class.
        k_query: query images per class.
        meta_batch_size: episodes per meta-batch, ``T``.
        seed: 0 to 2**64 - 1.
        scale: what a pixel ``x`` becomes: "unit" x / 255, "raw" x (0 to 255), "inverted" 1 - x / 255; float32.
        rotate: turn each class of an episode by 0, 90, 180 or 270 degrees, drawn per class and episode.
        start_episode: number of the first episode; to resume, the number of episodes already seen.
        batches: meta-batches in one iteration; None for no end.
        stride: from the first episode of a meta-batch to that of the next; None for `meta_batch_size`. What is left out
            between them is another process's part (:func:`maml_fast.distributed.shard`).
        prefetch: meta-batches made ahead of the one in use; 0 makes each when asked for.
        threads: prefetching threads; None for one.
        device: where episodes are wanted. On a CUDA device the images lie there as bytes, and kernels draw, scale and
            turn them; the episodes are the CPU's, bit for bit. Where there are no such kernels they are copied there.

    Raises:
        TypeError, ValueError: a parameter is of the wrong type, out of range, or more than the bank has.
    """

    bank: ImageBank
    n_way: int
    k_shot: int
    k_query: int
    meta_batch_size: int
    seed: int = 0
    _: KW_ONLY
    scale: Literal["unit", "raw", "inverted"] = "unit"
    rotate: bool = False
    start_episode: int = 0
    batches: int | None = None
    stride: int | None = None
    prefetch: int = 2
    threads: int | None = None
    device: torch.device | str | int = "cpu"

    def __post_init__(self) -> None:
        settle(self, bank=instance(ImageBank, "use ImageBank.from_array"))
        settle(self, n_way=whole(1), k_shot=whole(1), k_query=whole(1))
        self._check_numbering()
        settle(self, scale=choice(*numpy_sampler.SCALES), rotate=flag)
        settle(self, prefetch=whole(0), threads=optional(whole(1, 1024)))
        object.__setattr__(self, "device", check_device(self.device))
        self._check_bank()
        native.library()  # builds here, if it must, rather than in the middle of training

    def _check_bank(self) -> None:
        bank = self.bank
        if self.n_way > bank.n_classes:
            raise ValueError(f"n_way is {self.n_way}, but bank {bank.name!r} has only {bank.n_classes} classes")
        needed = self.k_shot + self.k_query
        if (bank.counts < needed).any():
            i = int(np.flatnonzero(bank.counts < needed)[0])
            raise ValueError(
                f"class {i} ({bank.class_names[i]!r}) of bank {bank.name!r} has {bank.counts[i]} images, but k_shot + "
                f"k_query is {self.k_shot} + {self.k_query} = {needed}; lower them, or drop the class by bank.select"
            )
        _, height, width = bank.image_shape
        if self.rotate and height != width:
            raise ValueError(f"rotate needs square images, got {height} x {width} in bank {bank.name!r}")
        if max(bank.n_classes, int(bank.counts.max()), self.n_way * needed) > MAX_SHUFFLE:
            raise ValueError(f"more than {MAX_SHUFFLE} classes, or images per class or episode, can't be shuffled")

    def _episodes_from(self, first: int) -> Episodes:
        if self.gpu_sampler is not None:
            return Episodes(*self.gpu_sampler.draw(first))
        return self._on_cpu(first).to(self.device)

    def _on_cpu(self, first: int) -> Episodes:
        library = native.library()
        if library is None:
            arrays = numpy_sampler.make_batch(self.bank, self._table(), first, self.meta_batch_size, **self._spec())
            return Episodes(*map(torch.from_numpy, arrays))
        episodes = self._allocate()
        self._native(library).write(first, *(x.numpy() for x in episodes))
        return episodes

    @cached_property
    def gpu_sampler(self) -> GpuSampler | None:
        """What draws on the device itself, if anything can."""
        device = torch.device(self.device)
        return GpuSampler(self, self._table(), device) if can_draw(device) else None

    def __getstate__(self) -> dict[str, Any]:
        own = "gpu_sampler"  # which another process makes for itself
        return {name: value for name, value in vars(self).items() if name != own}

    def __iter__(self) -> Iterator[Episodes]:
        library = native.library() if self.prefetch and self.gpu_sampler is None else None
        if library is None:
            return super().__iter__()
        made = self._prefetched(library)
        return made if torch.device(self.device).type == "cpu" else (episodes.to(self.device) for episodes in made)

    def __repr__(self) -> str:
        maker = f"kernels on {self.device}" if self.gpu_sampler is not None else self._cpu_maker()
        length = "endless" if self.batches is None else f"{self.batches} meta-batches"
        every = "" if self.stride is None else f", every {self.stride}"
        return (
            f"<EpisodeSampler: {self.n_way}-way {self.k_shot}-shot with {self.k_query} queries, {length} of "
            f"{self.meta_batch_size} episodes from {self.start_episode}{every} of seed {self.seed}, {self.scale} "
            f"pixels{', rotated' if self.rotate else ''}, from {self.bank.name!r}, made by {maker}>"
        )

    def _cpu_maker(self) -> str:
        code = "NumPy code" if native.library() is None else "native code"
        return code if torch.device(self.device).type == "cpu" else f"{code} and copied to {self.device}"

    def _spec(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seed", "n_way", "k_shot", "k_query", "rotate")}

    def _table(self) -> np.ndarray:
        return numpy_sampler.scale_table(self.scale)

    def _native(self, library: ModuleType) -> Any:
        return library.Sampler(self.bank.images, self.bank.starts, self.bank.counts, self._table(), **self._spec())

    def _allocate(self) -> Episodes:
        def half(images: int) -> tuple[Tensor, Tensor]:
            size = (self.meta_batch_size, self.n_way * images)
            x = torch.empty(*size, *self.bank.image_shape, dtype=torch.float32, device="cpu")
            return x, torch.empty(size, dtype=torch.int64, device="cpu")

        return Episodes(*half(self.k_shot), *half(self.k_query))

    def _prefetched(self, library: ModuleType) -> Iterator[Episodes]:
        """Keep `prefetch` meta-batches under way in native threads, which end when this generator does."""
        prefetcher = library.Prefetcher(self._native(library), self.threads or 1)
        pending: deque[Episodes] = deque()
        try:
            for i in self._numbers():
                pending.append(self._allocate())
                prefetcher.submit(self._first_episode(i), *(x.numpy() for x in pending[-1]))
                if len(pending) > self.prefetch:
                    prefetcher.wait()
                    yield pending.popleft()
            while pending:
                prefetcher.wait()
                yield pending.popleft()
        finally:
            prefetcher.close()

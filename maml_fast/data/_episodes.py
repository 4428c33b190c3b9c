"""Episodes, and the sampler that draws them from an image bank."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_fast import _arguments as arguments
from maml_fast import native
from maml_fast._arguments import check_fields, choice, flag, instance, int_from, number, optional, takes
from maml_fast.data import _checks as checks
from maml_fast.data import _numpy_sampler as numpy_sampler
from maml_fast.data._augmentation import ONE
from maml_fast.data._bank import ImageBank
from maml_fast.data._from_tasks import stack_tasks
from maml_fast.data._gpu_sampler import GpuSampler, can_draw, check_available, check_device
from maml_fast.data._numbered import NumberedEpisodes

__all__ = ["EpisodeSampler", "Episodes", "check_episodes"]

MAX_SHUFFLE = 2**31  # items that the sampler can shuffle at once


class Episodes(NamedTuple):
    """``T`` episodes of ``N`` classes, with ``K`` labeled support images and ``Q`` labeled query images per class.

    This is a plain tuple of tensors; ``Episodes(x_spt, y_spt, x_qry, y_qry)`` makes one from your own tensors. Images
    may have any shape after the first two dimensions.
    """

    x_spt: Tensor  # [T, N*K, C, H, W], float
    y_spt: Tensor  # [T, N*K], int64
    x_qry: Tensor  # [T, N*Q, C, H, W]
    y_qry: Tensor  # [T, N*Q]

    @classmethod
    @takes(n_support=optional(int_from(1)), k_shot=optional(int_from(1)))
    def from_tasks(
        cls,
        tasks: Iterable[Sequence[Any]] | Mapping[str, Sequence[Tensor]],
        *,
        n_support: int | None = None,
        k_shot: int | None = None,
    ) -> Episodes:
        """Make episodes from the tasks that another program or library draws.

        Args:
            tasks: any iterable, such as a list, a generator or a DataLoader, of tasks of the same size. A task consists
                of tensors or NumPy arrays: ``(x_spt, y_spt, x_qry, y_qry)``, [N, ...] each; the same followed by a list
                of class numbers, as easyfsl's collate function returns it; or one pair ``(x, y)``, as in learn2learn,
                which `n_support` or `k_shot` splits. Instead of an iterable, it may be a batch of torchmeta's
                ``BatchMetaDataLoader``, a dictionary with the pairs "train" and "test" (or "support" and "query").
            n_support: of pairs: the number of rows in the support set, the first ones; the others are queries.
            k_shot: of pairs: the number of rows of each class in the support set, the first ones of the class.

        Raises:
            TypeError: a task has another form.
            ValueError: there are no tasks, they differ in shape, or a pair can't be split as asked.
        """
        return cls(*stack_tasks(tasks, n_support, k_shot))

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
        """Move the episodes to a device, convert them to a dtype, or both; integer tensors keep their dtype.

        Args:
            device: the target device; None leaves the tensors where they are. A dtype may take its place, as in
                ``episodes.to(torch.float64)``.
            dtype: the dtype of floating-point tensors; None keeps it.
            non_blocking: as in ``torch.Tensor.to``.

        Raises:
            TypeError, ValueError: an argument is neither a device nor a dtype, or the four parts are not tensors.
            RuntimeError: ``device`` is a GPU, and there is none.
        """
        checks.check_tensors(self, self._fields)
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        place = None if device is None else arguments.device("device", device)
        if place is not None and place.type == "cuda":
            check_available(place)

        def move(tensor: Tensor) -> Tensor:
            kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
            return tensor.to(device=device, dtype=kept, non_blocking=non_blocking)

        return Episodes(*map(move, self))


@takes(
    n_way=optional(int_from(1)),
    classification=flag,
    values=optional(flag),
    ignored=optional(int_from(-(2**63), 2**63 - 1)),
)
def check_episodes(
    episodes: Sequence[Tensor],
    n_way: int | None = None,
    *,
    classification: bool = True,
    values: bool | None = None,
    ignored: int | None = None,
) -> Episodes:
    """Return four tensors as `Episodes`, or raise an error that says what is wrong with them.

    Args:
        episodes: x_spt, y_spt, x_qry, y_qry.
        n_way: the number of classes, which labels must be below; None for no upper bound.
        classification: whether labels must be int64 class numbers ``[T, N*K]``. If False, `y_spt` and `y_qry` may hold
            any targets ``[T, N*K, ...]``, and support and query inputs may differ in shape, as sequences of different
            length do.
        values: whether to check for labels out of range, NaN and infinity. None checks tensors on the CPU only, because
            on an accelerator this check makes the program wait for the device.
        ignored: a label that is valid though it is no class, such as -100 for cross-entropy.

    Raises:
        TypeError: the argument is not four tensors, inputs are neither floating point nor int32 or int64 indices, or
            labels are not int64.
        ValueError: shapes, devices or dtypes disagree, there are no images, a label is out of range, or a value is NaN
            or infinite.
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
    """Draws few-shot episodes from an image bank, one meta-batch at a time.

    An episode has ``n_way`` distinct classes, labeled 0 to ``n_way - 1`` in the order in which they are drawn. Each
    class has ``k_shot`` support images and ``k_query`` query images, all distinct. The support set and the query set
    are each shuffled. Episode number ``e`` of a seed is always the same, bit for bit, whatever the meta-batch size,
    threads, prefetching or backend: its random numbers come from Philox4x32-10, with the seed as the key and the
    episode number in the counter.

    Iterate over the sampler (every ``iter`` starts again at `start_episode`), or get any meta-batch by `batch`.
    Iteration prefetches in native threads. If `batches` is set, the sampler is also a map-style data set:
    ``DataLoader(sampler, batch_size=None, num_workers=2)`` yields the same meta-batches in the same order.

    Args:
        bank: the bank of images; they stay uint8 and are not copied.
        n_way: classes per episode.
        k_shot: support images per class.
        k_query: query images per class.
        meta_batch_size: episodes per meta-batch, ``T``.
        seed: 0 to 2**64 - 1.
        scale: how a pixel ``x`` is converted to float32: "unit" gives x / 255, "raw" gives x (0 to 255), "inverted"
            gives 1 - x / 255.
        rotate: whether to rotate the images by 0, 90, 180 or 270 degrees, drawn for each class of each episode.
        crop_padding: if above 0, every image is moved by up to this many pixels in each direction; its border is
            repeated where the image ends. Like the next two, it is drawn for every image of every episode, and it comes
            before the rotation. Use these three for training episodes only.
        flip: whether to flip images left to right, each with probability 1/2.
        color_jitter: from 0 to below 1: every image's brightness, contrast and (with three channels) saturation are
            multiplied by factors drawn uniformly between ``1 - color_jitter`` and ``1 + color_jitter``.
        start_episode: number of the first episode; to resume, the number of episodes already seen.
        batches: meta-batches per iteration; None for an endless sampler.
        stride: how many episodes lie between the first episodes of successive meta-batches; None for `meta_batch_size`.
            The episodes that a larger stride skips belong to other processes (:func:`maml_fast.distributed.shard`).
        prefetch: meta-batches prepared ahead of the one in use; 0 makes each on request.
        threads: prefetching threads; None for one.
        device: the device of the episodes. On a CUDA device the images are kept in device memory as bytes, and kernels
            draw, scale and rotate them; the episodes equal those of the CPU bit for bit. Without such kernels, and with
            `crop_padding`, `flip` or `color_jitter`, episodes are made on the CPU and copied to the device.

    Raises:
        TypeError, ValueError: a parameter has the wrong type, is out of range, or exceeds what the bank contains.
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
    crop_padding: int = 0
    flip: bool = False
    color_jitter: float = 0.0
    start_episode: int = 0
    batches: int | None = None
    stride: int | None = None
    prefetch: int = 2
    threads: int | None = None
    device: torch.device | str | int = "cpu"

    def __post_init__(self) -> None:
        check_fields(self, bank=instance(ImageBank, "use ImageBank.from_array"))
        check_fields(self, n_way=int_from(1), k_shot=int_from(1), k_query=int_from(1))
        self._check_numbering()
        check_fields(self, scale=choice(*numpy_sampler.SCALES), rotate=flag)
        check_fields(self, crop_padding=int_from(0), flip=flag, color_jitter=number(least=0, below=1))
        check_fields(self, prefetch=int_from(0), threads=optional(int_from(1, 1024)))
        object.__setattr__(self, "device", check_device(self.device))
        self._check_bank()
        native.library()  # builds the library now if necessary, not in the middle of training

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
        if self.crop_padding >= min(height, width):
            raise ValueError(
                f"crop_padding must be below the side of the images, got {self.crop_padding} for {height} x {width} in "
                f"bank {bank.name!r}"
            )
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
        """The sampler that draws on the device; None if no kernels for it were compiled, or images are augmented."""
        device = torch.device(self.device)
        return GpuSampler(self, self._table(), device) if can_draw(device) and not self._augments else None

    @property
    def _augments(self) -> bool:
        return bool(self.crop_padding or self.flip or self.color_jitter)

    def __getstate__(self) -> dict[str, Any]:
        # Another process makes its own gpu_sampler.
        return {name: value for name, value in vars(self).items() if name != "gpu_sampler"}

    def __iter__(self) -> Iterator[Episodes]:
        library = native.library() if self.prefetch and self.gpu_sampler is None else None
        if library is None:
            return super().__iter__()
        made = self._prefetched(library)
        return made if torch.device(self.device).type == "cpu" else (episodes.to(self.device) for episodes in made)

    def __repr__(self) -> str:
        maker = f"kernels on {self.device}" if self.gpu_sampler is not None else self._cpu_maker()
        length = "endless" if self.batches is None else f"{self.batches} meta-batches"
        changes = f"{', rotated' if self.rotate else ''}{', augmented' if self._augments else ''}"
        every = "" if self.stride is None else f", every {self.stride}"
        return (
            f"<EpisodeSampler: {self.n_way}-way {self.k_shot}-shot with {self.k_query} queries, {length} of "
            f"{self.meta_batch_size} episodes from {self.start_episode}{every} of seed {self.seed}, {self.scale} "
            f"pixels{changes}, from {self.bank.name!r}, made by {maker}>"
        )

    def _cpu_maker(self) -> str:
        code = "NumPy code" if native.library() is None else "native code"
        return code if torch.device(self.device).type == "cpu" else f"{code} and copied to {self.device}"

    def _spec(self) -> dict[str, Any]:
        names = ("seed", "n_way", "k_shot", "k_query", "rotate", "crop_padding", "flip")
        return {**{name: getattr(self, name) for name in names}, "jitter": round(ONE * self.color_jitter)}

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
        """Yield meta-batches, `prefetch` of which are in progress in native threads; these end with the generator."""
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

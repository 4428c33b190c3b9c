"""Sampling of episodes on a GPU, from a bank in its memory; the episodes are bit-identical to those of the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from maml_fast import _arguments as arguments
from maml_fast import native

if TYPE_CHECKING:
    from maml_fast.data._episodes import EpisodeSampler

__all__ = ["GpuSampler", "can_draw", "check_available", "check_device"]


def check_device(device: torch.device | str | int) -> torch.device:
    """Return the device, with its index if it is a GPU; raise unless it is the CPU or an available GPU."""
    found = arguments.device("device", device)
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {found}")
    if found.type == "cpu":
        return found
    check_available(found)
    return torch.device("cuda", torch.cuda.current_device() if found.index is None else found.index)


def check_available(gpu: torch.device) -> None:
    """Raise unless torch finds this GPU, or any GPU if ``gpu`` has no index."""
    if not torch.cuda.is_available():
        raise RuntimeError(f"device {gpu} was asked for, but torch finds no CUDA device; use device cpu")
    if gpu.index is not None and gpu.index >= torch.cuda.device_count():
        raise ValueError(f"device {gpu} was asked for, but there are only {torch.cuda.device_count()} CUDA devices")


class _Images:
    """The images of a bank in a GPU's memory. Banks that share images, such as the parts of a split, share this too."""

    cache: ClassVar[WeakValueDictionary[tuple[int, torch.device], _Images]] = WeakValueDictionary()

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self.source = images  # keeps the array alive, so that no other array gets its id
        self.tensor = _copy(images, device)  # [M, C, H, W], uint8

    @classmethod
    def of(cls, images: np.ndarray, device: torch.device) -> _Images:
        key = (id(images), device)
        found = cls.cache.get(key)
        if found is None:
            found = cls.cache[key] = cls(images, device)
        return found


class GpuSampler:
    """Draws the episodes of an :class:`EpisodeSampler` with two kernel launches, without waiting for the device."""

    def __init__(self, sampler: EpisodeSampler, table: np.ndarray, device: torch.device) -> None:
        bank = sampler.bank
        self._images = _Images.of(bank.images, device)
        self._starts, self._counts, self._table = (_copy(a, device) for a in (bank.starts, bank.counts, table))
        spec = (sampler.seed, sampler.n_way, sampler.k_shot, sampler.k_query)
        self._arguments = (sampler.meta_batch_size, _signed(spec[0]), *spec[1:], sampler.rotate)

    @property
    def device(self) -> torch.device:
        """The device of the images and of the episodes."""
        return self._images.tensor.device

    def draw(self, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x_spt, y_spt, x_qry, y_qry of the meta-batch that starts at episode ``first``."""
        return self.draw_from(torch.full((), _signed(first), dtype=torch.int64, device=self.device))

    def draw_from(self, first: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Like `draw`, with the number in device memory, int64 []; a CUDA graph reads it again at every replay."""
        tensors = (self._images.tensor, self._starts, self._counts, self._table, first)
        return torch.ops.maml_fast.draw_episodes(*tensors, *self._arguments)


def can_draw(device: torch.device) -> bool:
    """Return whether there are kernels that draw episodes on this device."""
    return device.type == "cuda" and native.has_cuda_kernels()


def _copy(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(array, device=device)


def _signed(number: int) -> int:
    """Return the int64 with the same 64 bits as this uint64."""
    return number - 2**64 if number >= 2**63 else number

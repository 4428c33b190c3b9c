"""An inner loop of many steps in a process of its own: its time, its memory, and its errors."""

from __future__ import annotations

from dataclasses import replace

import memory
import parity
import torch
from place import Place
from rounds import seconds_of
from torch import Tensor
from zoo import ZOO, Size

from maml_fast.data import Episodes
from maml_fast.maml import MAML

INNER_LR = 1e-3  # so small that a thousand steps stay finite
FEW_STEPS = 2
MOST_STEPS_FOR_PARITY = 100  # in float64


class LongLoop:
    """Second-order MAML on two tasks of a net of the zoo, ``kept`` inner steps in memory at once; ``None``: all."""

    def __init__(self, net: str, steps: int, kept: int | None, place: Place, quick: bool) -> None:
        place.keep_to()
        self._place, self._entry, self._size = place, ZOO[net], size_of(net, quick)
        self._steps, self._kept = steps, kept
        self._maml, self._episodes = self._begin(FEW_STEPS, kept, torch.float32)
        self._iterate()  # kernels are loaded, the model is recorded
        self._maml.inner_steps = steps

    def measure(self) -> tuple[float, float | None]:
        """Return the seconds of one iteration, and the MiB that it adds at its peak."""
        meter = memory.meter(self._place.device)
        meter.forget_peak()
        return seconds_of(self._iterate), meter.added_mib()

    def parity(self) -> dict[str, float]:
        """Return the errors, in float64, against the loop that keeps all steps."""
        found, wanted = (self._loss_and_gradient(kept) for kept in (self._kept, None))
        return {
            name: parity.require(parity.relative_error([a], [b]), parity.TOLERANCE, f"{self._entry.title}, {name}")
            for name, a, b in zip(("loss", "gradient"), found, wanted, strict=True)
        }

    def ran(self) -> str:
        """Return how the inner loop was computed."""
        return next(line for line in self._maml.describe().splitlines() if line.startswith("inner loop: "))

    def _begin(self, steps: int, kept: int | None, dtype: torch.dtype) -> tuple[MAML, Episodes]:
        model = self._entry.model(self._size).to(self._place.device, dtype)
        maml = MAML(model, inner_lr=INNER_LR, inner_steps=steps, loss_fn=self._entry.loss_fn, inner_memory=kept)
        return maml, self._entry.episodes(self._size, dtype, 0).to(self._place.device)

    def _iterate(self) -> None:
        self._maml(self._episodes).loss.backward()

    def _loss_and_gradient(self, kept: int | None) -> tuple[Tensor, Tensor]:
        maml, episodes = self._begin(min(self._steps, MOST_STEPS_FOR_PARITY), kept, torch.float64)
        loss = maml(episodes).loss
        gradients = torch.autograd.grad(loss, list(maml.parameters()))
        return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])

    def close(self) -> None:
        """Nothing to end: there are no other processes."""


def size_of(net: str, quick: bool) -> Size:
    """Two tasks of few queries; Conv4 has 32 channels, ResNet-12 is the narrow one, on 16x16."""
    entry = ZOO[net]
    if quick or net == "resnet12":
        return replace(entry.small, tasks=2)
    options = {"hidden": 32} if net == "conv4" else entry.size.options
    return replace(entry.size, options=options, tasks=2, queries=15)

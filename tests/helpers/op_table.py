"""The geometries over which every proof of ``conv_block`` runs, and tensors for them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    name: str
    tasks: int = 2
    batch: int = 3
    in_channels: int = 2
    size: tuple[int, int] = (8, 8)
    out_channels: int = 4
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int | None = 2
    relu_first: bool = False
    bias: bool = True
    gamma: bool = True
    beta: bool = True
    center: float = 0.0  # of the pixels, whose deviation is 1
    level: float = 0.0  # of beta: from about 30 on, ReLU cuts nothing off

    @property
    def options(self) -> dict:
        return {"stride": self.stride, "padding": self.padding, "pool": self.pool, "relu_first": self.relu_first}


CASES = [
    Case("conv4"),
    Case("conv4-first-layer", in_channels=1, size=(14, 14), out_channels=16),
    Case("conv4-wide", in_channels=64, size=(7, 7), out_channels=64),
    Case("three-colors", in_channels=3, size=(12, 12), out_channels=32),
    Case("finn-strided", stride=2, pool=None, gamma=False),
    Case("tutorial", stride=2, padding=2, size=(9, 9)),
    Case("tutorial-last-block", stride=2, padding=2, size=(2, 2), in_channels=16, out_channels=16, relu_first=True),
    Case("relu-first", relu_first=True),
    Case("relu-first-no-pool", relu_first=True, pool=None),
    Case("no-pool", pool=None),
    Case("odd-size", size=(9, 7)),
    Case("one-task", tasks=1),
    Case("one-image", batch=1),
    Case("seven-tasks", tasks=7, batch=1, size=(5, 4)),
    Case("one-channel-out", out_channels=1),
    Case("channels-17-to-19", in_channels=17, out_channels=19, size=(6, 6)),
    Case("channels-65-to-70", in_channels=65, out_channels=70, size=(4, 4)),
    Case("kernel-1", kernel=1, padding=0),
    Case("kernel-1-padded", kernel=1, padding=1, stride=2),
    Case("kernel-5", kernel=5, padding=2, size=(7, 8)),
    Case("kernel-5-stride-3", kernel=5, padding=2, stride=3, size=(16, 13)),
    Case("stride-3-kernel-1", kernel=1, stride=3, padding=0, size=(10, 11)),
    Case("valid-padding", padding=0),
    Case("padding-past-kernel", padding=4),
    Case("no-affine", bias=False, gamma=False, beta=False),
    Case("gamma-only", bias=False, beta=False),
    Case("relu-first-no-bias", relu_first=True, bias=False),
    Case("window-is-image", size=(2, 2), batch=4),
]

NAMES = [case.name for case in CASES]


def tensors(case: Case, dtype: torch.dtype, seed: int = 0, requires_grad: bool = True) -> list[Tensor | None]:
    """x, weight, bias, gamma, beta; ``None`` where the case has no such parameter."""
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int, center: float = 0.0) -> Tensor:
        return (torch.randn(*shape, dtype=dtype, generator=generator) + center).requires_grad_(requires_grad)

    per_channel = (case.tasks, case.out_channels)
    return [
        make(case.tasks, case.batch, case.in_channels, *case.size, center=case.center),
        make(case.tasks, case.out_channels, case.in_channels, case.kernel, case.kernel),
        make(*per_channel) if case.bias else None,
        make(*per_channel) if case.gamma else None,
        make(*per_channel, center=case.level) if case.beta else None,
    ]


GRADCHECKED = [
    Case("small", tasks=2, batch=2, in_channels=2, size=(4, 4), out_channels=2),
    Case("strided", tasks=1, batch=2, in_channels=1, size=(5, 5), out_channels=2, stride=2, padding=2, pool=None),
    Case("relu-first", tasks=2, batch=2, in_channels=1, size=(4, 5), out_channels=2, relu_first=True),
    Case("no-gamma", tasks=1, batch=2, in_channels=2, size=(4, 4), out_channels=2, gamma=False, kernel=1, padding=0),
]

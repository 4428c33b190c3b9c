"""Numbers of iterations, read at once or late."""

from __future__ import annotations

import pytest
import torch

from maml_fast.train._readings import LateReader, read_at_once

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def test_at_once_is_before_they_change() -> None:
    numbers = torch.tensor([1.0, 2.0], dtype=torch.float64)
    reading = read_at_once(numbers)
    numbers.fill_(7)
    assert reading() == [1, 2]


@pytest.mark.parametrize("device", DEVICES)
def test_late_is_after_the_next_has_begun(device: str) -> None:
    numbers = torch.tensor([1.0, 2.0], dtype=torch.float64, device=device)
    reader = LateReader(numbers.device, 2)
    for start in range(4):
        first = reader(numbers.fill_(start))
        second = reader(numbers.fill_(start + 0.5))
        numbers.fill_(torch.nan)
        assert first() == [start] * 2
        assert second() == [start + 0.5] * 2

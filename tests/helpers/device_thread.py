"""Autograd's thread for a GPU, played on the CPU: gradients are taken there, and what they make is numbered there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch


@pytest.fixture
def device_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take gradients in another thread unless PyTorch is told not to, as it does for tensors on a GPU."""
    grad = torch.autograd.grad
    with ThreadPoolExecutor(max_workers=1) as thread:

        def in_thread(*arguments: Any, **options: Any) -> Any:
            if not torch._C._is_multithreading_enabled():
                return grad(*arguments, **options)
            with_grad = torch.is_grad_enabled()

            def run() -> Any:
                with torch.set_grad_enabled(with_grad):
                    return grad(*arguments, **options)

            return thread.submit(run).result()

        # Its numbers are behind the caller's: a sum over steps then comes in another order.
        monkeypatch.setattr(torch.autograd, "grad", in_thread)
        yield

"""Counts the kernels that a GPU would be given: PyTorch's, by its operations, and ours."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WITHOUT_KERNEL = {  # besides views
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.detach.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
    aten.lift_fresh.default,
}


class TorchKernels(TorchDispatchMode):
    """Counts PyTorch's operations on tensors that have values, by name; on a GPU each of them is about one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in function._schema.returns)
        if function.namespace == "aten" and not is_view and function not in WITHOUT_KERNEL:
            self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))
